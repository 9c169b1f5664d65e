"""Pictures and tables for people.

overview    what was audited, learnt and heard, and one page with all of it
comparison  runs that were compared: a table, and every difference beside the noise floor
rounds      what each round of pseudo-labelling brought
effects     what each post-processing does

The page that shows whether to trust pseudo-labels is birdkit.pseudolabel.trust_page.
"""
from birdkit.reports.effects import effects_text, write_effects
from birdkit.reports.overview import learning_curve, page, per_class, pseudo_labels, show_audit, soundscape
from birdkit.reports.rounds import rounds_picture, rounds_text

__all__ = ["effects_text", "learning_curve", "page", "per_class", "pseudo_labels", "rounds_picture", "rounds_text",
           "show_audit", "soundscape", "write_effects"]
