//! Captions: one sentence about a segment of a shot, put together from what the experts said and from nothing else.
//!
//! The template is `who; what; up to two sounds; a voice says: “words”.`, each part only where it is known. It names a
//! thing by its class where the tagger is sure of it, else by its group, else not at all.

mod composer;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

pub use self::composer::Composer;
use crate::{
    observation::{Kind, Label, Observation},
    time::{SECOND, Span},
    timeline::surest_first,
};

/// Source of the captions.
pub const SOURCE: &str = "lite/caption";
/// Source of what the tagger sees: one observation a frame, its `labels` the surest classes.
pub const TAGS: &str = "lite/tags";
/// Source of the people seen: one observation for each frame with people, `person` or `N people`.
pub const PEOPLE: &str = "lite/people";
/// A sound belongs to a segment that it reaches into for this long, in nanoseconds: YAMNet listens to 0.96 s at once, so
/// a sound that starts at a cut seems to reach back over it by up to that much.
const HEARD_NS: u64 = SECOND;
/// Sounds in one caption.
const SOUNDS: usize = 2;
/// Letters quoted at most, for languages that put no spaces between words.
const LETTERS: usize = 120;

/// How sure the composer must be.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// A class is named from this mean probability on, 0 to 1.
    pub class: f32,
    /// And from this part of what all classes of its group get, 0 to 1; below it another class is as likely.
    pub class_of_group: f32,
    /// Else its group is named from this sum of mean probabilities on, 0 to 1.
    pub group: f32,
    /// Beside people a thing needs this much, 0 to 1: the tagger knows no people and takes them for things.
    pub beside_people: f32,
    /// People are named where they are in this part of the frames, 0 to 1.
    pub people: f32,
    /// A second sound is told from this confidence on, 0 to 1; of two weak ones one is mostly wrong.
    pub second_sound: f32,
    /// Words quoted at most.
    pub words: usize,
}

impl Default for Rules {
    /// Thresholds for EfficientNet-Lite0: below 0.3 its classes are nonsense on pictures that show none of them.
    fn default() -> Self {
        Self {
            class: 0.30,
            class_of_group: 0.5,
            group: 0.45,
            beside_people: 0.5,
            people: 0.25,
            second_sound: 0.5,
            words: 14,
        }
    }
}

/// The words for what the tagger sees.
pub trait Names: Send {
    /// "a", "an", or "" where none is put; `None` for a class that is not known.
    fn article(&self, class: &str) -> Option<&str>;

    /// Article and general word for the group of a class.
    fn group_of(&self, class: &str) -> Option<(&str, &str)>;
}

/// What there is to go by, all in stream time.
#[derive(Clone, Copy)]
pub struct Evidence<'e> {
    /// What the experts said, in order of arrival.
    pub said: &'e [Observation],
    /// Times of the frames that the experts saw, in order.
    pub frames: &'e [u64],
    /// Words for classes.
    pub names: &'e dyn Names,
    /// Thresholds.
    pub rules: &'e Rules,
}

/// A thing or people in the picture.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    article: String,
    noun: String,
    /// 0 to 1.
    confidence: f32,
    /// The general word for it.
    group: Option<String>,
    /// Times of the frames that show it.
    shown: Vec<u64>,
}

impl Seen {
    fn phrase(&self) -> String {
        if self.article.is_empty() { self.noun.clone() } else { format!("{} {}", self.article, self.noun) }
    }

    fn is_person(&self) -> bool {
        self.group.as_deref() == Some("person")
    }

    /// Whether a clause like "a dog barks" starts with this thing or its group.
    fn is_subject_of(&self, clause: &str) -> bool {
        let clause = ["a ", "an "].iter().find_map(|article| clause.strip_prefix(article)).unwrap_or(clause);
        let words = self.group.iter().chain([&self.noun]).flat_map(|word| word.split(" or "));
        words.into_iter().any(|word| clause.strip_prefix(word).is_some_and(|rest| rest.starts_with(' ')))
    }

    fn label(&self, name: &str) -> Label {
        Label { name: name.to_owned(), confidence: self.confidence }
    }
}

/// The caption of `segment`; `None` where nothing is known of it.
pub fn caption(segment: Span, evidence: &Evidence) -> Option<Observation> {
    let (people, thing) = picture(segment, evidence);
    let sounds = sounds(segment, evidence, thing.as_ref());
    let speech: Vec<&Observation> = said_in(segment, evidence.said);

    let mut clauses: Vec<String> = people.iter().chain(&thing).map(Seen::phrase).collect();
    clauses.extend(heard(&sounds, thing.as_ref()));
    let quote = quote(&speech, evidence.rules.words);
    let text = sentence(clauses, quote.as_deref())?;

    let heard = sounds.iter().chain(speech.iter().filter(|_| quote.is_some()));
    let used: Vec<f32> = people.iter().chain(&thing).map(|s| s.confidence).chain(heard.map(|o| o.confidence)).collect();
    let mut caption =
        Observation::new(Kind::Caption, segment, text, used.iter().sum::<f32>() / used.len() as f32, SOURCE);
    caption.labels.extend(people.iter().map(|people| people.label("person")));
    caption.labels.extend(thing.iter().map(|thing| thing.label(&thing.noun)));
    caption.labels.extend(sounds.iter().map(|sound| Label {
        name: sound.labels.first().map_or_else(|| sound.text.trim().to_owned(), |label| label.name.clone()),
        confidence: sound.confidence,
    }));
    caption.labels.sort_by(surest_first);
    Some(caption)
}

/// What is seen in `segment`, each with the span in which it is seen.
pub fn objects(segment: Span, evidence: &Evidence) -> Vec<Observation> {
    let frames = within(evidence.frames, segment);
    let (people, thing) = picture(segment, evidence);
    let observe = |seen: &Seen, source| {
        let start = seen.shown.iter().min()?;
        let last = seen.shown.iter().max()?;
        // The first frame stands for what came before it in the segment, each frame for the time to the next.
        let start = if frames.first().is_none_or(|first| start <= first) { segment.start_ns } else { *start };
        let end = frames.iter().find(|frame| *frame > last).copied().unwrap_or(segment.end_ns);
        let span = Span::new(start, end);
        let mut object = Observation::new(Kind::Object, span, seen.noun.clone(), seen.confidence, source);
        object.labels.push(seen.label(&seen.noun));
        Some(object)
    };
    let people = people.iter().filter_map(|seen| observe(seen, PEOPLE));
    people.chain(thing.iter().filter_map(|seen| observe(seen, TAGS))).collect()
}

/// The frames inside `span`.
fn within(frames: &[u64], span: Span) -> &[u64] {
    let from = frames.partition_point(|&at| at < span.start_ns);
    let to = frames.partition_point(|&at| at < span.end_ns);
    frames.get(from..to).unwrap_or_default()
}

/// The people and the thing to be named.
fn picture(segment: Span, evidence: &Evidence) -> (Option<Seen>, Option<Seen>) {
    let people = people(segment, evidence);
    let sure = if people.is_some() { evidence.rules.beside_people } else { 0.0 };
    let thing = thing(segment, evidence).filter(|thing| thing.confidence >= sure);
    match (people, thing) {
        // "a person; a person" says too much, "a scuba diver" says it all.
        (Some(people), Some(thing)) if thing.is_person() && thing.noun == "person" => (Some(people), None),
        (Some(people), Some(thing)) if thing.is_person() && people.noun == "person" => (None, Some(thing)),
        both => both,
    }
}

/// What people observations in `segment` agree on.
fn people(segment: Span, evidence: &Evidence) -> Option<Seen> {
    let seen: Vec<&Observation> = seen_in(segment, evidence.said, PEOPLE).collect();
    let shown: BTreeSet<u64> = seen.iter().map(|o| o.span.start_ns).collect();
    let frames = within(evidence.frames, segment).len().max(shown.len());
    if seen.is_empty() || (shown.len() as f32) < evidence.rules.people * frames as f32 {
        return None;
    }
    let mut counts: Vec<usize> = seen.iter().map(|o| head_count(&o.text)).collect();
    counts.sort_unstable();
    let count = counts.get((counts.len() - 1) / 2).copied().unwrap_or(1);
    let (article, noun) = match count {
        0 | 1 => ("a", "person"),
        2 => ("two", "people"),
        3 => ("three", "people"),
        4 => ("four", "people"),
        5 => ("five", "people"),
        _ => ("several", "people"),
    };
    let confidence = seen.iter().map(|o| o.confidence).sum::<f32>() / seen.len() as f32;
    Some(Seen {
        article: article.into(),
        noun: noun.into(),
        confidence,
        group: None,
        shown: shown.into_iter().collect(),
    })
}

fn head_count(text: &str) -> usize {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(1)
}

/// The class that the tagger is sure of over all frames of `segment`, or else its group.
fn thing(segment: Span, evidence: &Evidence) -> Option<Seen> {
    let frames: Vec<&Observation> = seen_in(segment, evidence.said, TAGS).collect();
    let mut classes: BTreeMap<&str, f32> = BTreeMap::new();
    let mut groups: BTreeMap<(&str, &str), f32> = BTreeMap::new();
    for label in frames.iter().flat_map(|frame| &frame.labels) {
        let part = label.confidence / frames.len() as f32;
        *classes.entry(&label.name).or_default() += part;
        if let Some(group) = evidence.names.group_of(&label.name) {
            *groups.entry(group).or_default() += part;
        }
    }
    // Where a label is in no frame it counts as 0; the sums are means over all frames.
    let (class, mean) = classes.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let group = evidence.names.group_of(class);
    let of_group = group.and_then(|group| groups.get(&group)).copied().unwrap_or(mean);
    let shown = |of: &dyn Fn(&str) -> bool, needed: f32| {
        let shows =
            |frame: &Observation| frame.labels.iter().filter(|l| of(&l.name)).map(|l| l.confidence).sum::<f32>();
        frames.iter().filter(|frame| shows(frame) >= needed / 2.0).map(|frame| frame.span.start_ns).collect()
    };
    let rules = evidence.rules;
    if mean > rules.class && mean >= rules.class_of_group * of_group {
        return Some(Seen {
            article: evidence.names.article(class).unwrap_or_default().to_owned(),
            noun: class.to_owned(),
            confidence: mean.min(1.0),
            group: group.map(|(_, phrase)| phrase.to_owned()),
            shown: shown(&|name| name == class, rules.class),
        });
    }
    let ((article, phrase), sum) = groups.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    (sum > rules.group).then(|| Seen {
        article: article.to_owned(),
        noun: phrase.to_owned(),
        confidence: sum.min(1.0),
        group: Some(phrase.to_owned()),
        shown: shown(&|name| evidence.names.group_of(name) == Some((article, phrase)), rules.group),
    })
}

/// Observations of `source` about frames in `segment`; a frame is where it starts.
fn seen_in<'e>(segment: Span, said: &'e [Observation], source: &'e str) -> impl Iterator<Item = &'e Observation> {
    let of = move |o: &&Observation| o.kind == Kind::Object && o.source == source;
    said.iter().filter(of).filter(move |o| segment.contains(o.span.start_ns))
}

/// The sounds to be told of `segment`, no two the same: what goes with `thing` first, then the surest.
fn sounds<'e>(segment: Span, evidence: &Evidence<'e>, thing: Option<&Seen>) -> Vec<&'e Observation> {
    let enough_ns = HEARD_NS.min(segment.duration_ns() / 2).max(1);
    let is_heard = |o: &&Observation| {
        let heard_ns = o.span.intersect(segment).duration_ns();
        o.kind == Kind::Sound && heard_ns >= enough_ns.min(o.span.duration_ns().div_ceil(2).max(1))
    };
    let mut sounds: Vec<&Observation> = evidence.said.iter().filter(is_heard).collect();
    sounds.retain(|sound| !sound.text.trim().is_empty());
    sounds.sort_by(|a, b| b.confidence.total_cmp(&a.confidence).then_with(|| a.canonical_cmp(b)));
    let mut texts = BTreeSet::new();
    sounds.retain(|sound| texts.insert(sound.text.trim().to_lowercase()));
    sounds.sort_by_key(|sound| !thing.is_some_and(|thing| thing.is_subject_of(sound.text.trim())));
    sounds.truncate(SOUNDS);
    let mut sounds = sounds.into_iter();
    let first = sounds.next();
    first.into_iter().chain(sounds.filter(|sound| sound.confidence >= evidence.rules.second_sound)).collect()
}

/// A clause for each of `sounds`; what `thing` does is told with a pronoun, in one clause: "it meows and yowls".
fn heard(sounds: &[&Observation], thing: Option<&Seen>) -> Vec<String> {
    let mut clauses: Vec<String> = Vec::new();
    let mut subject = None;
    for (index, sound) in sounds.iter().enumerate() {
        let told = thing.filter(|_| index == 0 || subject.is_some()).and_then(|thing| pronoun(&sound.text, thing));
        match (told, clauses.last_mut()) {
            (Some((it, rest)), Some(before)) if subject == Some(it) => {
                before.push_str(" and ");
                before.push_str(rest);
            }
            (Some((it, rest)), None) => {
                subject = Some(it);
                clauses.push(format!("{it} {rest}"));
            }
            _ => clauses.push(sound.text.trim().to_owned()),
        }
    }
    clauses
}

/// The speech that is told in `segment`: what has its middle there, so that no sentence is told twice.
fn said_in(segment: Span, said: &[Observation]) -> Vec<&Observation> {
    let in_segment = |o: &&Observation| o.kind == Kind::Speech && segment.contains(o.span.middle_ns());
    let mut speech: Vec<&Observation> = said.iter().filter(in_segment).collect();
    speech.sort_by(|a, b| a.canonical_cmp(b));
    speech
}

/// "it" or "they" and the rest of a `clause` about the thing that was just named, where the grammar is certain.
///
/// After "a car", "a car passes by" becomes "it passes by", but "a car horn honks" is about something else: what
/// follows the noun must be a verb, which a lone word always is, and a word in -s with more behind it nearly always.
fn pronoun<'c>(clause: &'c str, thing: &Seen) -> Option<(&'static str, &'c str)> {
    let rest = clause.trim().strip_prefix(&thing.phrase())?.strip_prefix(' ')?.trim();
    let mut words = rest.split_whitespace();
    let verb = words.next()?;
    let (alone, singular) = (words.next().is_none(), verb.ends_with('s') && !verb.ends_with("ss"));
    match (thing.article.is_empty(), singular) {
        (_, true) => Some(("it", rest)),
        (true, false) if alone => Some(("they", rest)),
        _ => None,
    }
}

/// The words of `speech`, at most `limit` of them, in quotation marks.
fn quote(speech: &[&Observation], limit: usize) -> Option<String> {
    // Marks inside would end the quotation early.
    let all = speech.iter().map(|o| o.text.replace(['“', '”', '"'], "'")).collect::<Vec<_>>().join(" ");
    let words: Vec<&str> = all.split_whitespace().collect();
    let mut told = words.iter().take(limit.max(1)).copied().collect::<Vec<_>>().join(" ");
    let mut cut = words.len() > limit.max(1);
    if let Some((at, _)) = told.char_indices().nth(LETTERS) {
        told.truncate(at);
        cut = true;
    }
    if cut {
        let kept = told.trim_end_matches(|c: char| c.is_whitespace() || ",;:.-–—".contains(c)).len();
        told.truncate(kept);
        told.push('…');
    }
    told.chars().any(char::is_alphanumeric).then(|| format!("“{told}”"))
}

/// The clauses as one sentence; `None` where there are none.
fn sentence(mut clauses: Vec<String>, quote: Option<&str>) -> Option<String> {
    clauses.extend(quote.map(|quote| format!("a voice says: {quote}")));
    clauses.retain(|clause| !clause.trim().is_empty());
    let text = clauses.join("; ");
    let mut letters = text.chars();
    let first = letters.next()?;
    let mut text: String = first.to_uppercase().chain(letters).collect();
    // A quotation that ends as a sentence ends the caption too.
    let ends = ["…”", ".”", "!”", "?”", "。”", "！”", "？”"];
    if !ends.iter().any(|end| text.ends_with(end)) {
        text.push('.');
    }
    Some(text)
}
