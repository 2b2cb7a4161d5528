"""What is trained: LightningModules that take their network, loss and optimisation as arguments."""
