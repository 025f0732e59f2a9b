"""The distillation core: train, distil, score and export one speech enhancement model."""
