"""One folder a cascade: its models, its policy, how they were made and how well they do. Makes the folders importable."""
