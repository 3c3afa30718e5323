//! Nodes in one process, with lines between them that can be cut.
