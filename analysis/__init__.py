"""analysis: from the record of runs to the paper's figures and tables.

An exhibit is one module here with the name of its sweep: it reads finished runs from MLflow
(`frames`), takes means, intervals and paired tests over seeds (`stats`), answers the paper's claims
(`claims`, `paper`) and is drawn and written by shared code (`drawing`, `document`, `exhibit`).
Nothing here starts a run, and nothing is shown whose runs are not named.
"""
