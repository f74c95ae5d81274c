"""What is read off a state or a prediction: pixels, and the error that a prediction expects of itself."""
