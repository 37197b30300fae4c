//! Sound to log-mel features, as the processor files of a published model ask for them.
