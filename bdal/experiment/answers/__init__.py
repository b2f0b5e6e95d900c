"""What people answered, read from files: CSV, JSON lines, and exports of Label Studio."""

from bdal.experiment.answers.points import title
from bdal.experiment.answers.reading import ABSTAINS, WIDE_DOLLAR, Answers, check_class_names, csv_answers, read_answers

__all__ = ["ABSTAINS", "WIDE_DOLLAR", "Answers", "check_class_names", "csv_answers", "read_answers", "title"]
