//! One test for each bug that got past the others, named after what it broke.
