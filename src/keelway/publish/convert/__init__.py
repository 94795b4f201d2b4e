"""From a fitted scikit-learn estimator to an ONNX graph that computes what the estimator computes, in the same order.

Each module translates one family; ``translate.py`` finds the translator of an estimator and is what the rest of
publish calls. Nothing here decides whether a translation is right: that is the proof's business (``proof.py``).
"""
