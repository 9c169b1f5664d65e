"""What `kaggle_submit.sh` has to know: what to send, what Kaggle's client answered, what has been done. No network.

The script calls these by `python -m birdkit.sending`; the standard library is enough.
"""
