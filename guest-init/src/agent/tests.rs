//! The agent with a machine in memory.
