//! What is valid and yet unlikely to be meant.
