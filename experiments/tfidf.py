"""The words alone: TF-IDF with a logistic regression, trained in one place, on the split of ``experiment=movies``.

``python -m experiments.tfidf FILE`` prints its accuracy on the movies that the experiment tests on, and the mean over
five divisions of all movies, which says how much the choice of these movies matters.
"""

import sys

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from experiments.recorded import mean_sd, percent
from fedrac.data.columns import named_files, read_named
from fedrac.data.split import split_whole
from fedrac.experiment import compose


def main(path: str) -> None:
    """Prints both, and the share of the larger class in the test."""
    spec = compose.load(["experiment=movies"]).data
    columns = read_named(named_files(path, None, False)).keep(spec.target, spec.classes)
    texts = np.array(list(columns.texts(spec.text)), dtype=object)
    labels = columns.classes(spec.target, spec.classes)
    movies = np.unique(columns.plain(spec.group), return_inverse=True)[1]
    train, test = split_whole(movies, spec.test_fraction, spec.split_seed)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    found = model.fit(texts[train], labels[train]).score(texts[test], labels[test])
    folds = cross_val_score(model, texts, labels, groups=movies, cv=GroupKFold(5))
    print(f"the larger class                 {percent(np.bincount(labels[test]).max() / len(test))}")
    print(f"TF-IDF + logistic regression     {percent(found)}")
    print(
        f"the same, five divisions         {mean_sd(folds, percent)} ({percent(folds.min())} to {percent(folds.max())})"
    )


if __name__ == "__main__":
    main(sys.argv[1])
