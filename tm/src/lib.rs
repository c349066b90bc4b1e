//! Plans and steps of the transfer manager.
