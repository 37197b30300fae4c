//! `clipsampler` by its factory name: one harness a pad, exact times, no sleeps.

use describe_models::{Clip, wire};
use gst::prelude::*;
use gst_check::Harness;

const MS: u64 = 1_000_000;

fn init() {
    use std::sync::Once;
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstdescribe::plugin_register_static().unwrap();
    });
}

fn ms(ms: u64) -> gst::ClockTime {
    gst::ClockTime::from_mseconds(ms)
}

/// The sampler with a harness on each wanted pad; the first one also holds the source pad.
struct Sampler {
    element: gst::Element,
    video: Option<Harness>,
    audio: Option<Harness>,
    bus: gst::Bus,
}

const VIDEO: &str = "video/x-raw,format=RGB,width=64,height=48,framerate=25/1";

impl Sampler {
    fn new(video: Option<&str>, audio: Option<&str>) -> Self {
        init();
        let element = gst::ElementFactory::make("clipsampler").build().unwrap();
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        let mut sampler = Self { video: None, audio: None, bus, element };
        let harness = |name, first| Harness::with_element(&sampler.element, Some(name), first);
        let video_harness = video.map(|caps| (harness("video", Some("src")), caps));
        let first = if video.is_some() { None } else { Some("src") };
        let audio_harness = audio.map(|caps| (harness("audio", first), caps));
        sampler.video = video_harness.map(|(mut harness, caps)| {
            harness.set_src_caps_str(caps);
            harness
        });
        sampler.audio = audio_harness.map(|(mut harness, caps)| {
            harness.set_src_caps_str(caps);
            harness
        });
        sampler
    }

    fn both() -> Self {
        Self::new(Some(VIDEO), Some("audio/x-raw,format=F32LE,rate=16000,channels=1,layout=interleaved"))
    }

    /// A frame of one colour.
    fn frame(&mut self, at_ms: u64, rgb: [u8; 3]) {
        let bytes: Vec<u8> = std::iter::repeat_n(rgb, 64 * 48).flatten().collect();
        let mut buffer = gst::Buffer::from_slice(bytes);
        buffer.get_mut().unwrap().set_pts(ms(at_ms));
        buffer.get_mut().unwrap().set_duration(ms(40));
        self.video.as_mut().unwrap().push(buffer).unwrap();
    }

    fn sound(&mut self, at_ms: u64, samples: &[f32], discont: bool) {
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let mut buffer = gst::Buffer::from_slice(bytes);
        let writable = buffer.get_mut().unwrap();
        writable.set_pts(ms(at_ms));
        if discont {
            writable.set_flags(gst::BufferFlags::DISCONT);
        }
        self.audio.as_mut().unwrap().push(buffer).unwrap();
    }

    fn event(&mut self, event: gst::Event) {
        for harness in [&mut self.video, &mut self.audio].into_iter().flatten() {
            harness.push_event(event.clone());
        }
    }

    fn source(&mut self) -> &mut Harness {
        self.video.as_mut().or(self.audio.as_mut()).expect("one pad is there")
    }

    fn clip(&mut self) -> (Clip, gst::Buffer) {
        let buffer = self.source().pull().expect("a clip");
        let parts = buffer.iter_memories().map(|memory| memory.map_readable().unwrap().to_vec().into());
        let clip = wire::read(parts.collect::<Vec<_>>()).unwrap();
        (clip, buffer)
    }

    /// The clips up to the end of the stream.
    fn rest(&mut self) -> Vec<Clip> {
        self.event(gst::event::Eos::new());
        let mut clips = Vec::new();
        loop {
            while self.source().buffers_in_queue() > 0 {
                clips.push(self.clip().0);
            }
            let event = self.source().pull_event().expect("the end of the stream");
            if event.type_() == gst::EventType::Eos {
                while self.source().buffers_in_queue() > 0 {
                    clips.push(self.clip().0);
                }
                return clips;
            }
        }
    }

    fn stat(&self, name: &str) -> u64 {
        self.element.property::<gst::Structure>("stats").get(name).unwrap()
    }

    fn error(&self) -> String {
        let message = self.bus.timed_pop_filtered(gst::ClockTime::from_seconds(10), &[gst::MessageType::Error]);
        match message.expect("an error").view() {
            gst::MessageView::Error(error) => error.error().to_string(),
            _ => unreachable!(),
        }
    }
}

/// Ten seconds of both: white frames at whole seconds, a click (one sample of 1.0) at the same instants.
fn flash_and_click(sampler: &mut Sampler, seconds: u64) {
    for i in 0..seconds * 25 {
        sampler.frame(i * 40, if i % 25 == 0 { [255; 3] } else { [0; 3] });
        let mut samples = [0.0; 640];
        samples[0] = if i % 25 == 0 { 1.0 } else { 0.0 };
        sampler.sound(i * 40, &samples, i == 0);
    }
}

#[test]
fn flash_and_click_stay_together() {
    let mut sampler = Sampler::both();
    flash_and_click(&mut sampler, 10);
    let clips = sampler.rest();
    let spans: Vec<_> = clips.iter().map(|clip| (clip.span.start_ns / MS, clip.span.end_ns / MS)).collect();
    assert_eq!(spans, [(0, 4_000), (4_000, 8_000), (8_000, 10_000)]);
    for clip in &clips {
        let flashes = clip.thumbnails.at_ns.iter().enumerate().filter(|(i, _)| clip.thumbnails.get(*i)[0] > 200);
        let flashes: Vec<u64> = flashes.map(|(_, at)| *at).collect();
        let sound = clip.sound.as_ref().unwrap();
        let clicks = sound.samples().iter().enumerate().filter(|(_, sample)| **sample > 0.5);
        let clicks: Vec<u64> = clicks.map(|(i, _)| (sound.first + i as u64) * 62_500).collect();
        assert_eq!(flashes, clicks);
        assert_eq!(flashes.len() as u64, clip.span.duration_ns().div_ceil(1_000 * MS));
        assert_eq!(sound.filled, 0);
    }
    assert_eq!(clips[0].frames.len(), 8);
    assert_eq!((clips[0].frames[0].width, clips[0].frames[0].height), (64, 48));
    let stats = ["clips", "frames-in", "frames-used", "samples-in", "samples-filled", "late"].map(|s| sampler.stat(s));
    // The cut clip: 4 instants have their frame before the end, the last frame stands for the other four.
    assert_eq!(stats, [3, 250, 8 + 8 + 5, 160_000, 0, 0]);
}

#[test]
fn the_clip_says_when_it_is() {
    let mut sampler = Sampler::both();
    flash_and_click(&mut sampler, 5);
    let (clip, buffer) = sampler.clip();
    assert!(clip.discont && buffer.flags().contains(gst::BufferFlags::DISCONT));
    assert_eq!((buffer.pts(), buffer.duration()), (Some(ms(0)), Some(ms(4_000))));
    let caps = sampler.source().sinkpad().unwrap().current_caps().unwrap();
    assert_eq!(caps.to_string(), "application/x-clip, width=(int)448, height=(int)448, rate=(int)16000");
    let rest = sampler.rest();
    assert!(!rest[0].discont);
}

#[test]
fn downstream_says_how_clips_look() {
    let mut sampler = Sampler::both();
    sampler.source().set_sink_caps_str("application/x-clip,width=(int)[1,32],height=(int)[1,32],rate=(int)8000");
    flash_and_click(&mut sampler, 4);
    let clips = sampler.rest();
    assert_eq!((clips[0].frames[0].width, clips[0].frames[0].height), (32, 24));
    assert_eq!(clips[0].sound.as_ref().unwrap().samples().len(), 32_000);
}

#[test]
fn a_hole_in_the_sound_is_silence_to_the_sample() {
    let mut sampler = Sampler::both();
    for i in 0..100 {
        sampler.frame(i * 40, [0; 3]);
        // 40 ms are missing at 1 s; at 2 s a buffer overlaps the one before by 10 ms.
        match i {
            25 => (),
            50 => sampler.sound(1_990, &[0.5; 800], true),
            _ => sampler.sound(i * 40, &[0.5; 640], i == 26),
        }
    }
    let clips = sampler.rest();
    let sound = clips[0].sound.as_ref().unwrap();
    let silent: Vec<usize> = (0..64_000).filter(|i| sound.samples()[*i] == 0.0).collect();
    assert_eq!((silent[0], silent.len(), silent[639]), (16_000, 640, 16_639));
    assert_eq!((sampler.stat("samples-filled"), sampler.stat("late")), (640, 160));
}

#[test]
fn one_stream_may_end_early_and_start_late() {
    let mut sampler = Sampler::both();
    for i in 0..150 {
        if i < 50 {
            sampler.frame(i * 40, [9; 3]);
        } else if i == 50 {
            sampler.video.as_mut().unwrap().push_event(gst::event::Eos::new());
        }
        if i >= 10 {
            sampler.sound(i * 40, &[0.5; 640], i == 10);
        }
    }
    let clips = sampler.rest();
    assert_eq!(clips.iter().map(|clip| clip.span.end_ns / MS).collect::<Vec<_>>(), [4_000, 6_000]);
    assert_eq!(clips.iter().map(|clip| clip.thumbnails.len()).collect::<Vec<_>>(), [50, 0]);
    assert_eq!(clips[0].sound.as_ref().unwrap().filled, 6_400);
    assert_eq!(clips[1].sound.as_ref().unwrap().samples(), [0.5; 32_000]);
}

#[test]
fn gap_events_let_time_pass() {
    let mut sampler = Sampler::both();
    sampler.frame(0, [9; 3]);
    sampler.audio.as_mut().unwrap().push_event(gst::event::Gap::builder(ms(0)).duration(ms(4_000)).build());
    sampler.video.as_mut().unwrap().push_event(gst::event::Gap::builder(ms(40)).duration(ms(3_960)).build());
    // The base class looks again when there is something new on every pad.
    sampler.audio.as_mut().unwrap().push_event(gst::event::Gap::builder(ms(4_000)).duration(ms(100)).build());
    let (clip, _) = sampler.clip();
    assert_eq!((clip.frames.len(), clip.sound.unwrap().filled), (1, 64_000));
}

#[test]
fn a_pad_alone_is_enough() {
    let mut sampler = Sampler::new(Some(VIDEO), None);
    (0..50).for_each(|i| sampler.frame(i * 40, [9; 3]));
    let clips = sampler.rest();
    assert_eq!((clips.len(), clips[0].span.end_ns / MS, clips[0].sound.is_none()), (1, 2_000, true));

    let mut sampler = Sampler::new(None, Some("audio/x-raw,format=F32LE,rate=48000,channels=1,layout=interleaved"));
    sampler.sound(0, &[0.25; 480], true);
    let clips = sampler.rest();
    assert_eq!((clips.len(), clips[0].span.end_ns / MS, clips[0].frames.len()), (1, 10, 0));
    assert_eq!(clips[0].sound.as_ref().unwrap().samples().len(), 160);
}

#[test]
fn stream_time_is_kept_through_a_flushing_seek() {
    let mut sampler = Sampler::both();
    flash_and_click(&mut sampler, 1);
    sampler.event(gst::event::FlushStart::new());
    sampler.event(gst::event::FlushStop::new(true));
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_start(ms(500));
    segment.set_time(ms(30_000));
    sampler.event(gst::event::Segment::new(&segment));
    for i in 0..=100 {
        sampler.frame(500 + i * 40, [9; 3]);
        sampler.sound(500 + i * 40, &[0.5; 640], i == 0);
    }
    let (clip, buffer) = sampler.clip();
    assert_eq!((clip.span.start_ns / MS, clip.span.end_ns / MS), (30_000, 34_000));
    assert!(clip.discont);
    assert_eq!(buffer.pts(), Some(ms(500)));
    assert_eq!(clip.thumbnails.at_ns[0], 30_000 * MS);
    assert_eq!(clip.sound.unwrap().filled, 0);
}

#[test]
fn what_lies_outside_the_segment_is_clipped() {
    let mut sampler = Sampler::both();
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_start(ms(1_000));
    segment.set_stop(ms(3_000));
    segment.set_time(ms(1_000));
    sampler.event(gst::event::Segment::new(&segment));
    for i in 0..20 {
        sampler.frame(200 * i, [9; 3]);
        // Starts 50 ms before the segment and ends 50 ms after it.
        sampler.sound(150 + 200 * i, &[0.5; 3_200], false);
    }
    let clips = sampler.rest();
    assert_eq!((clips[0].span.start_ns / MS, clips[0].span.end_ns / MS), (1_000, 3_000));
    assert_eq!(clips[0].thumbnails.len(), 10);
    let sound = clips[0].sound.as_ref().unwrap();
    assert_eq!((sound.samples().len(), sound.filled), (32_000, 0));
}

#[test]
fn a_stream_that_starts_again_loses_nothing() {
    let mut sampler = Sampler::both();
    flash_and_click(&mut sampler, 3);
    sampler.event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
    flash_and_click(&mut sampler, 2);
    let clips = sampler.rest();
    let spans: Vec<_> =
        clips.iter().map(|clip| (clip.span.start_ns / MS, clip.span.end_ns / MS, clip.discont)).collect();
    assert_eq!(spans, [(0, 3_000, true), (0, 2_000, true)]);
    assert_eq!(sampler.stat("late"), 0);
}

#[test]
fn caps_may_change_in_the_middle() {
    let mut sampler = Sampler::both();
    for i in 0..100u64 {
        match i {
            50 => {
                let video = sampler.video.as_mut().unwrap();
                video.set_src_caps_str("video/x-raw,format=GRAY8,width=32,height=64,framerate=25/1");
                let audio = sampler.audio.as_mut().unwrap();
                audio.set_src_caps_str("audio/x-raw,format=S16LE,rate=8000,channels=2,layout=interleaved");
            }
            0..50 => {
                sampler.frame(i * 40, [9; 3]);
                sampler.sound(i * 40, &[0.5; 640], false);
            }
            _ => (),
        }
        if i >= 50 {
            let mut frame = gst::Buffer::from_slice(vec![100u8; 32 * 64]);
            frame.get_mut().unwrap().set_pts(ms(i * 40));
            sampler.video.as_mut().unwrap().push(frame).unwrap();
            let samples: Vec<u8> = std::iter::repeat_n(16_384i16.to_le_bytes(), 640).flatten().collect();
            let mut sound = gst::Buffer::from_slice(samples);
            sound.get_mut().unwrap().set_pts(ms(i * 40));
            sampler.audio.as_mut().unwrap().push(sound).unwrap();
        }
    }
    let clips = sampler.rest();
    assert_eq!(clips.len(), 1);
    let sizes: Vec<_> = clips[0].frames.iter().map(|frame| (frame.width, frame.height)).collect();
    assert_eq!(sizes, [[(64, 48); 4], [(32, 64); 4]].concat());
    let sound = clips[0].sound.as_ref().unwrap();
    assert_eq!((sound.samples().len(), sound.filled), (64_000, 0));
    // Away from the border of the two rates, where the resampler rings, the level is the same.
    assert!(sound.samples()[33_000..63_000].iter().all(|sample| (sample - 0.5).abs() < 1e-3));
}

#[test]
fn a_turned_video_is_turned_upright() {
    let mut sampler = Sampler::new(Some(VIDEO), None);
    let mut tags = gst::TagList::new();
    tags.get_mut().unwrap().add::<gst::tags::ImageOrientation>(&"rotate-90", gst::TagMergeMode::Replace);
    sampler.event(gst::event::Tag::new(tags));
    sampler.frame(0, [9; 3]);
    let clips = sampler.rest();
    assert_eq!((clips[0].frames[0].width, clips[0].frames[0].height), (48, 64));
}

#[test]
fn a_frame_without_a_time_is_an_error_that_teaches() {
    let mut sampler = Sampler::new(Some(VIDEO), None);
    let _ = sampler.video.as_mut().unwrap().push(gst::Buffer::from_slice([0u8; 64 * 48 * 3]));
    let error = sampler.error();
    assert!(error.contains("no timestamp") && error.contains("parser"), "{error}");
}

#[test]
fn quality_of_service_stays_downstream() {
    let mut sampler = Sampler::both();
    sampler.frame(0, [9; 3]);
    while sampler.video.as_mut().unwrap().try_pull_upstream_event().is_some() {}
    let late = gst::event::Qos::new(gst::QOSType::Underflow, 2.0, 1_000_000, Some(ms(1_000)));
    assert!(sampler.source().push_upstream_event(late));
    while let Some(event) = sampler.video.as_mut().unwrap().try_pull_upstream_event() {
        assert_ne!(event.type_(), gst::EventType::Qos);
    }
}

#[test]
fn the_latency_is_the_clip() {
    init();
    let element = gst::ElementFactory::make("clipsampler").build().unwrap();
    assert_eq!(element.property::<u64>("latency"), 4_000 * MS);
    element.set_property("clip-duration", 1_500 * MS);
    assert_eq!(element.property::<u64>("latency"), 1_500 * MS);

    let mut sampler = Sampler::both();
    for harness in [&mut sampler.video, &mut sampler.audio].into_iter().flatten() {
        harness.set_upstream_latency(ms(100));
        harness.set_live(true);
    }
    assert_eq!(sampler.source().query_latency(), Some(ms(4_100)));
}

#[test]
fn live_a_clip_goes_out_in_time_though_one_pad_starves() {
    let mut sampler = Sampler::both();
    for harness in [&mut sampler.video, &mut sampler.audio].into_iter().flatten() {
        harness.set_live(true);
        harness.use_testclock();
    }
    sampler.source().play();
    // Four seconds of picture come in time; no sound ever does.
    for i in 0..100 {
        sampler.source().set_time(ms(i * 40)).unwrap();
        sampler.frame(i * 40, [9; 3]);
    }
    // The deadline: the end of the clip.
    assert!(sampler.source().crank_single_clock_wait().is_ok());
    let (clip, _) = sampler.clip();
    assert_eq!((clip.span.start_ns, clip.span.end_ns / MS), (0, 4_000));
    assert_eq!(clip.frames.len(), 8, "every instant has its frame");
    assert_eq!(clip.thumbnails.len(), 100);
    assert_eq!(clip.sound.unwrap().filled, 64_000);
    assert_eq!(sampler.source().testclock().unwrap().time(), ms(4_000));
}

#[test]
fn it_says_what_it_is() {
    init();
    let factory = gst::ElementFactory::find("clipsampler").unwrap();
    assert_eq!(factory.metadata("klass"), Some("Filter/Analyzer/Video/Audio"));
    let names: Vec<_> = factory.static_pad_templates().iter().map(|pad| pad.name_template().to_string()).collect();
    assert_eq!(names, ["video", "audio", "src"]);
}
