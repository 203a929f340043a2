//! What is in guest memory before the first instruction: the kernel, its boot parameters, the ACPI
//! tables; and the built-in guest.
