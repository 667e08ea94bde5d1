"""Training on seen classes: samples, targets, matching, losses, optimizer and loop. Nothing depends on a cluster.

Imports `zs3.nets`, `zs3.datasets`, `zs3.images` and `zs3.vocabulary`.
Begin with `loop.train_steps`; `settings.TrainingConfig` holds every choice.
"""
