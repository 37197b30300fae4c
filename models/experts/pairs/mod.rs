//! The open-vocabulary experts: a published pair of encoders, one for text and one for pictures (CLIP, SigLIP) or sounds
//! (CLAP), says which of the user's labels a frame or a stretch of sound is likest to.

mod labels;
mod model;
mod pictures;
mod sounds;
#[cfg(test)]
mod tests;

pub use self::{
    labels::labels,
    model::{Asked, Family, Pair},
    pictures::Pictures,
    sounds::Sounds,
};
use crate::{Kind, Label, Observation, Span, timeline::surest_first};

/// Labels that an observation tells at most.
const MOST_LABELS: usize = 5;

/// What is said of a span, from its embedding.
///
/// One observation for each label that is sure enough. Where embeddings are asked for there is at least one, and the
/// surest has the embedding.
pub(crate) fn say(pair: &Pair, kind: Kind, span: Span, embedding: &[f32], out: &mut Vec<Observation>) {
    let mut found: Vec<Label> = pair
        .labels()
        .iter()
        .zip(pair.scores(embedding))
        .map(|(name, confidence)| Label { name: name.clone(), confidence })
        .collect();
    found.sort_by(surest_first);
    found.truncate(MOST_LABELS);
    let sure = found.iter().filter(|label| label.confidence >= pair.threshold()).count();
    let told = if pair.embeds() { sure.max(1) } else { sure };
    for index in 0..told {
        let (text, confidence) = match found.get(index) {
            Some(label) => (label.name.clone(), label.confidence),
            // Without labels there is nothing to say but where the embedding belongs.
            None => (if kind == Kind::Sound { "sound" } else { "frame" }.to_owned(), 0.0),
        };
        let mut said = Observation::new(kind, span, text, confidence, pair.source());
        if let Some(label) = found.get(index) {
            said.labels.push(label.clone());
        }
        if pair.embeds() && index == 0 {
            said.embedding = Some(embedding.to_vec());
        }
        out.push(said);
    }
}
