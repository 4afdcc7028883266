"""A tour of the library, from images to predictions, in cells: it runs as a program, too."""

# %% [markdown]
# # From Python
#
# Cells begin with `# %%`, which VS Code, PyCharm, Spyder and Jupytext understand. As a program this is
# `python docs/notebook.py`.

# %% [markdown]
# ## Fit
#
# Open a source of images as `--data` names it: "digits", "mnist", "folder:PATH", ... A `Problem` says what to fit.

# %%
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from common.data.labelled import open_splits
from common.data.splits import FoldRule
from common.estimators import FeatureMapTransformer, MomentsRidgeClassifierCV
from common.features.spec import FeatureSpec
from common.models import load
from common.ridge.fit import Problem
from spark_jobs import serial

rule = FoldRule(k=5, validation=0.2)
train, test = open_splits("digits", rule)
features = FeatureSpec.parse("patches:8").learn(train, seed=0)
fit = serial.fit(Problem(train, rule, lambdas=(0.1, 1.0, 10.0, 100.0), features=features))
print("correct in validation, at each λ:", fit.correct, "of", fit.n_validation)
print("the chosen λ:", fit.model.lambda_)

# %% [markdown]
# ## Save, load, predict
#
# `load` takes the run folder of any job, or a folder that `save` wrote. Models predict paths, arrays and Pillow's
# images, one or many.

# %%
folder = Path(tempfile.mkdtemp())
fit.model.save(folder)
model = load(folder)
images = test.load()
found = model.predict(images.pixels)
truth = np.array(model.class_names)[images.labels]
print("test accuracy:", (found == truth).mean())

# %%
Image.fromarray(images.pixels[0, :, :, 0]).save(folder / "digit.png")
print(
    "digit.png is a",
    model.predict(folder / "digit.png")[0],
    "with the scores",
    model.scores(folder / "digit.png").round(2),
)

# %% [markdown]
# ## Next week's images, and images that have to go
#
# Moments add up, and can be subtracted: the estimator of scikit-learn has `partial_fit` and `partial_unfit`. Then
# the model is, to the last bit, what it would be if the rows had never been there.

# %%
block = train.load()
map_ = FeatureMapTransformer("patches:8", shape=(8, 8)).fit(block.pixels)
rows, labels = map_.transform(block.pixels), block.labels
grown = MomentsRidgeClassifierCV(lambdas=(1e4, 1e5, 1e6))
for start in range(0, len(rows), 200):
    grown.partial_fit(rows[start : start + 200], labels[start : start + 200], classes=range(10))
grown.partial_unfit(rows[:100], labels[:100])
never = MomentsRidgeClassifierCV(lambdas=(1e4, 1e5, 1e6)).partial_fit(rows[100:], labels[100:])
print("equal weights:", np.array_equal(grown.coef_, never.coef_))
print("test accuracy:", grown.score(map_.transform(images.pixels), images.labels))
