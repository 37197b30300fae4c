//! Numbers out of JSON that strangers wrote: each in its range, or a sentence that says what is wrong.

use std::ops::RangeInclusive;

use serde_json::Value;

/// One object of a processor file.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    object: &'a Value,
    /// What the object is called in sentences.
    name: &'a str,
}

impl<'a> Fields<'a> {
    pub(super) fn new(object: &'a Value, name: &'a str) -> Self {
        Self { object, name }
    }

    /// The value under `key` (`a.b` goes into objects); `None` where it is absent or null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        key.split('.').try_fold(self.object, |object, key| object.get(key)).filter(|value| !value.is_null())
    }

    /// A sentence about the field `key`.
    pub(super) fn wrong(&self, key: &str, wanted: &str) -> String {
        let found = self.get(key).map_or("missing".to_owned(), |value| {
            let mut text = value.to_string();
            if text.chars().count() > 60 {
                text = text.chars().take(60).chain(['…']).collect();
            }
            text
        });
        format!("`{key}` of the {} is {found}, it must be {wanted}", self.name)
    }

    /// A whole number in `range`; `default` where it is absent.
    pub(super) fn whole(&self, key: &str, default: u32, range: RangeInclusive<u32>) -> Result<u32, String> {
        Ok(self.maybe_whole(key, range)?.unwrap_or(default))
    }

    /// A whole number in `range` where there is one.
    pub(super) fn maybe_whole(&self, key: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        // Python writes whole numbers as 16000.0 at times.
        let whole =
            value.as_u64().or_else(|| value.as_f64().filter(|x| x.fract() == 0.0 && *x >= 0.0).map(|x| x as u64));
        match whole.and_then(|whole| u32::try_from(whole).ok()).filter(|whole| range.contains(whole)) {
            Some(whole) => Ok(Some(whole)),
            None => Err(self.wrong(key, &format!("a whole number from {} to {}", range.start(), range.end()))),
        }
    }

    /// A finite number in `range`; `default` where it is absent.
    pub(super) fn number(&self, key: &str, default: f64, range: RangeInclusive<f64>) -> Result<f64, String> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value
            .as_f64()
            .filter(|x| range.contains(x))
            .ok_or_else(|| self.wrong(key, &format!("a number from {} to {}", range.start(), range.end())))
    }

    /// A truth; `default` where it is absent.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, String> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, "true or false"))
    }

    /// One text.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    /// `count` finite numbers, or one for all of them.
    pub(super) fn numbers(&self, key: &str, count: usize) -> Result<Option<Vec<f64>>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let numbers: Option<Vec<f64>> = match value {
            Value::Array(list) => list.iter().map(|x| x.as_f64().filter(|x| x.is_finite())).collect(),
            one => one.as_f64().map(|one| vec![one; count]),
        };
        let numbers = numbers.filter(|numbers| numbers.len() == count);
        numbers.map(Some).ok_or_else(|| self.wrong(key, &format!("{count} numbers")))
    }
}
