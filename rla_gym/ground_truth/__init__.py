"""The ground truth: robosuite tasks behind the dream's spaces, and the recording of datasets in them.

``env`` and ``vector`` are the environments, ``simulator`` and ``rendering`` their physics and pictures, ``perception``
and ``real_features`` their observations and rewards. ``collect`` and the files ``recording*`` write datasets of what
the scripted controllers in ``behaviours``, ``experts`` and ``stacking`` do. ``seeds`` has the reset seeds by purpose.
"""
