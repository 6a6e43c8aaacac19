//! The ferry VMM.
