"""The audit of a competition's files: which recordings can be used, which cannot and why, and who validates what.

auditing      every file decoded and checked, tables and splits written, as notebook 01 does
fingerprint   which recordings hold the same sound
marks         centres of clips that people marked by hand
call_sources  tables of recordings with and without calls, for a call detector
"""
from birdkit.preprocess.auditing import RECORDING_COLUMNS, SOUNDSCAPE_COLUMNS, Audit, audit

__all__ = ["RECORDING_COLUMNS", "SOUNDSCAPE_COLUMNS", "Audit", "audit"]
