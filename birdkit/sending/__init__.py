"""What `kaggle_submit.sh` has to know: what to send, what Kaggle's client answered, what has been done.

The script calls these by `python -m birdkit.sending`; the standard library is enough, and nothing talks to Kaggle but
`recovery`, which needs the package `kaggle`.
"""
