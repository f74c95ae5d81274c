"""Measures worlds, their rewards and the policies trained in them: result rows, and tables and pictures of these."""
