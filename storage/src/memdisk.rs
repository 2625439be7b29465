//! A disk in memory that loses, tears and flips bytes as a seed says.
