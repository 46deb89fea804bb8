"""What can be read of, and done to, any Keras model."""
