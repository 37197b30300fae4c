//! The two request pads.

use super::stream::Media;

/// The request pads that are there.
#[derive(Debug, Clone, Default)]
pub struct Pads {
    /// Picture.
    pub video: Option<gst_base::AggregatorPad>,
    /// Sound.
    pub audio: Option<gst_base::AggregatorPad>,
}

impl Pads {
    /// The pad of `media`.
    pub fn get(&self, media: Media) -> Option<&gst_base::AggregatorPad> {
        match media {
            Media::Video => self.video.as_ref(),
            Media::Audio => self.audio.as_ref(),
        }
    }

    /// Where the pad of `media` is kept.
    pub fn slot(&mut self, media: Media) -> &mut Option<gst_base::AggregatorPad> {
        match media {
            Media::Video => &mut self.video,
            Media::Audio => &mut self.audio,
        }
    }

    /// Which of them `pad` is.
    pub fn media_of(&self, pad: &gst_base::AggregatorPad) -> Option<Media> {
        [Media::Video, Media::Audio].into_iter().find(|media| self.get(*media) == Some(pad))
    }

    /// Those that are there.
    pub fn all(&self) -> impl Iterator<Item = (Media, &gst_base::AggregatorPad)> {
        [Media::Video, Media::Audio].into_iter().filter_map(|media| Some((media, self.get(media)?)))
    }
}
