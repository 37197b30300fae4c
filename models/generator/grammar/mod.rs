//! Answers held to a JSON schema, closed before the tokens run out.
