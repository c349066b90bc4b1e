//! Plans for the virtual machine manager's actions and the host steps they use.
