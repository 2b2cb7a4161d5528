"""Studies: many trainings that answer one question, on one machine or many, and that outlive a crash.

All that is known lies in the study's folder (CONTRACTS): ``study.yaml`` (what is asked), ``jobs/<hash>/job.json`` (what
became of each job), ``jobs/<hash>/leases/`` (who is at it), ``journal.log`` (a search's trials). ``study.csv`` is made
from these and can always be made again. Every program that opens the folder sees the same, so that a study goes on
wherever it is started.
"""
