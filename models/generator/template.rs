//! The chat template that a published model ships, and the messages that go through it.

use std::path::PathBuf;

use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, context, syntax::SyntaxConfig};
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::LoadError;

/// Steps that a template may take; a chat of a hundred messages takes a few thousand.
const FUEL: u64 = 1_000_000;
/// Depth of calls; each one takes some of the thread's stack.
const DEPTH: usize = 64;
const NAME: &str = "chat";

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Words.
    Text {
        /// The words.
        text: String,
    },
    /// A picture.
    Image,
    /// A video.
    Video,
    /// A sound.
    Audio,
}

impl Part {
    /// A part of words.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }
}

/// Something that was said in a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What was said.
    pub content: Vec<Part>,
}

/// A chat template.
pub struct Template {
    environment: Environment<'static>,
    path: PathBuf,
    names: Vec<(String, String)>,
    /// Whether messages are plain texts: how templates of models that only read want them.
    plain: bool,
}

impl Template {
    /// Takes the template `text` of the file `path`; `names` are known to it as variables.
    pub fn new(path: PathBuf, text: String, names: Vec<(String, String)>, plain: bool) -> Result<Self, LoadError> {
        let mut environment = Environment::new();
        // As Transformers sets Jinja (`utils/chat_template_utils.py`).
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the usual delimiters do not clash"));
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", |reason: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        });
        environment.add_function("strftime_now", |_format: String| String::new());
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(DEPTH);
        let wrong = |reason: String| LoadError::Format { path: path.clone(), reason };
        environment.add_template_owned(NAME, text).map_err(|error| wrong(told(&error)))?;
        let template = Self { environment, path: path.clone(), names, plain };
        // One try, so that a template that never ends or fails is found when it is loaded.
        template.render(&[Message { role: "user", content: vec![Part::text("?")] }]).map_err(wrong)?;
        Ok(template)
    }

    /// The chat as text, up to where the model goes on.
    pub fn render(&self, messages: &[Message]) -> Result<String, String> {
        let template = self.environment.get_template(NAME).map_err(|error| told(&error))?;
        let messages: Vec<Value> = messages.iter().map(|message| self.value(message)).collect();
        let names = self.names.iter().map(|(name, text)| (name.clone(), Value::from(text.clone())));
        let mut context: std::collections::BTreeMap<String, Value> = names.collect();
        context.insert("messages".into(), messages.into());
        context.insert("add_generation_prompt".into(), true.into());
        context.insert("enable_thinking".into(), false.into());
        template.render(Value::from(context)).map_err(|error| told(&error))
    }

    /// The file it came from.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    fn value(&self, message: &Message) -> Value {
        if !self.plain {
            let parts = message.content.iter().map(|part| match part {
                Part::Text { text } => context! { type => "text", text => text },
                Part::Image => context! { type => "image" },
                Part::Video => context! { type => "video" },
                Part::Audio => context! { type => "audio" },
            });
            return context! { role => message.role, content => parts.collect::<Vec<Value>>() };
        }
        let words = message.content.iter().map(|part| match part {
            Part::Text { text } => text.as_str(),
            _ => "",
        });
        context! { role => message.role, content => words.collect::<String>() }
    }
}

/// What went wrong, with where it did.
fn told(error: &Error) -> String {
    let place = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    match error.kind() {
        ErrorKind::OutOfFuel => format!("the chat template takes more than {FUEL} steps{place}; it does not end"),
        _ => format!("the chat template failed{place}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Result<Template, LoadError> {
        let names = vec![("bos_token".to_owned(), "<bos>".to_owned())];
        Template::new("chat_template.jinja".into(), text.to_owned(), names, false)
    }

    #[test]
    fn parts_and_python_methods_are_there() {
        let text = "{{ bos_token }}{% for m in messages %}{{ m['role'].upper() }}:\n{% for p in m['content'] %}\
                    {% if p['type'] == 'text' %}{{ p['text'] | trim }}{% else %}<{{ p.type }}>{% endif %}{% endfor %}\n\
                    {% endfor %}{% if add_generation_prompt %}GO{% endif %}";
        let content = vec![Part::Video, Part::Audio, Part::text(" what? ")];
        let chat = template(text).unwrap().render(&[Message { role: "user", content }]).unwrap();
        assert_eq!(chat, "<bos>USER:\n<video><audio>what?GO");
    }

    #[test]
    fn a_template_that_never_ends_is_refused() {
        let turning = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
        let calling = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
        let including = "{% include 'chat' %}";
        for text in [turning, calling, including, "{{ raise_exception('no system turn') }}", "{% if %}"] {
            let error = template(text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("chat_template.jinja"), "{text}: {error}");
        }
    }
}
