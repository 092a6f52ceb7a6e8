"""Split2MetaFusion (arXiv 2312.07082), and classifiers aligned by drawn features."""
