"""Makes the two files that ``modeltiers.json`` uses: real images to test on, and the weights of a trained network.

    pip install scikit-learn
    python examples/digits/prepare.py

The images are scikit-learn's handwritten digits (1,797 images of 8x8 pixels, from the UCI Machine Learning Repository).
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from model import build_model
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

FOLDER = Path(__file__).parent
EPOCHS = 30


def main() -> None:
    digits = load_digits()
    images = digits.images.astype("float32")[:, None]
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits.target, test_size=360, stratify=digits.target, random_state=0
    )
    np.savez_compressed(FOLDER / "digits.npz", pixel_values=test_x.astype("uint8"), labels=test_y.astype("int64"))

    torch.manual_seed(0)
    model = build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    x, y = torch.from_numpy(train_x), torch.from_numpy(train_y)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        accuracy = (model(torch.from_numpy(test_x)).argmax(1) == torch.from_numpy(test_y)).float().mean()
    save_file(model.state_dict(), FOLDER / "digits.safetensors")
    print(f"accuracy on {len(test_y)} held-out images: {accuracy:.3f}")


if __name__ == "__main__":
    main()
