//! How much of everything there can be. Rank 0.
