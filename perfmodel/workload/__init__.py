"""What we run: operators, models, layers and software stacks, each with exact FLOPs and bytes."""
