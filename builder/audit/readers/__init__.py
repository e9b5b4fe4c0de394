"""Readers of an image's final bytes. They share no code with what writes those bytes, and fail closed."""
