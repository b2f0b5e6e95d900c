"""What people answered, read from files: CSV, JSON lines, and exports of Label Studio."""

from bdal.answers.formats import GROUND_TRUTH
from bdal.answers.points import title
from bdal.answers.reading import ABSTAINS, WIDE_DOLLAR, Answers, check_class_names, csv_answers, read_answers

__all__ = [
    "ABSTAINS",
    "GROUND_TRUTH",
    "WIDE_DOLLAR",
    "Answers",
    "check_class_names",
    "csv_answers",
    "read_answers",
    "title",
]
