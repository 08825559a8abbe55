"""LeaP-T (section 4 of arXiv 2505.07787): responses of a teacher that ran LeaP, filtered, and fine-tuning on them."""
