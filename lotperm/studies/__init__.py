"""The paper's questions, a folder each: what is computed, what its table says, and its figure.

`lotperm.studies.study` says what a question is and how to add one.
"""

from lotperm.studies.folders import question_folders

# `Experiment.for_figure` knows a figure only once the folder of its question has been listed.
question_folders()
