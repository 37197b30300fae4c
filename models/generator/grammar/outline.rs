//! Where in its JSON an answer is, and whether a parser will take what is written.

/// Longest number in characters, without its exponent: longer ones add no precision that anyone can use.
const MAX_NUMBER: u8 = 24;
/// Longest exponent in characters, its letter counted and its sign not: more than two digits may not fit into a double.
const MAX_EXPONENT: u8 = 3;
/// Deepest nesting; parsers of JSON commonly stop at 128.
const MAX_DEPTH: u16 = 100;

/// Where in its JSON a text is, followed byte by byte.
///
/// A schema may allow what parsers do not take: numbers of any length and endless nesting. What has gone too far is
/// told by [`Outline::write`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Outline {
    in_string: bool,
    escaped: bool,
    depth: u16,
    number: u8,
    exponent: u8,
}

impl Outline {
    /// Whether the text is inside a string.
    pub(super) fn in_string(self) -> bool {
        self.in_string
    }

    /// Goes on with `bytes`; false where a number or the nesting has gone too far.
    pub(super) fn write(&mut self, bytes: &[u8]) -> bool {
        let mut fits = true;
        for &byte in bytes {
            fits &= self.step(byte);
        }
        fits
    }

    fn step(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return true;
        }
        match byte {
            b'0'..=b'9' if self.exponent > 0 => self.exponent = self.exponent.saturating_add(1),
            b'+' | b'-' if self.exponent > 0 => {}
            b'0'..=b'9' | b'-' | b'.' => self.number = self.number.saturating_add(1),
            b'e' | b'E' if self.number > 0 => self.exponent = 1,
            _ => (self.number, self.exponent) = (0, 0),
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.number <= MAX_NUMBER && self.exponent <= MAX_EXPONENT && self.depth <= MAX_DEPTH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_nesting_have_an_end_and_strings_have_not() {
        let fits = |text: &str| Outline::default().write(text.as_bytes());
        assert!(fits(r#"{"a":[1.5e-10,-0.25,true,false,null]}"#));
        assert!(fits(&format!("\"{}\"", "9".repeat(500))));
        assert!(fits(&format!("\"\\\"{}", "[".repeat(500))), "an escaped quote does not end a string");
        assert!(!fits(&"9".repeat(25)));
        assert!(fits("1e+99") && !fits("1e100") && !fits("1e-100"));
        assert!(!fits(&"[".repeat(101)));
        assert!(fits(&format!("{}1", "[1],".repeat(500))), "what was closed does not count");
    }
}
