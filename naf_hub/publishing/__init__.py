"""Weights and their cards to the Hugging Face Hub."""
