//! The devices a guest talks to. None of them knows of KVM: they see guest memory, queues and an interrupt handle.
