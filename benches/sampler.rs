//! What the sampler adds to each frame of full HD video.
//!
//! ```sh
//! cargo bench --bench sampler
//! ```
//!
//! * `picture/*`: the arithmetic alone, per frame. Every frame costs a `thumbnail`; one in a dozen (8 of the 100 in four
//!   seconds) is also `chosen`: converted to RGB and scaled to fit 448 pixels.
//! * `element/*`: frames through a pipeline, per frame: `nothing` is `appsrc ! fakesink`, `sampler` has the element in
//!   between. Their difference is the added cost of a frame, its share of the chosen ones included.
//!
//! The frames differ and are more than caches hold, as those of a decoder are.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use describe_models::picture::{Colour, Component, Depth, Orientation, Picture, Plane};
use gst::prelude::*;

const WIDTH: usize = 1920;
const HEIGHT: usize = 1080;
/// Distinct frames: 50 MB, more than the last cache of most processors.
const FRAMES: usize = 16;
/// Frames a second of the stream.
const RATE: u64 = 25;
/// What the default pack asks for (`clip.max_size` of its manifest).
const MAX_SIZE: u32 = 448;
const BT709: Colour = Colour::Yuv { kr: 0.2126, kb: 0.0722, full_range: false };
/// Formats of software and of hardware decoders, and whether both colour differences share a plane.
const FORMATS: [(&str, bool); 2] = [("I420", false), ("NV12", true)];

/// Frames of noise, each 4:2:0 with all planes in one piece.
fn frames() -> Vec<Vec<u8>> {
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..FRAMES).map(|_| (0..WIDTH * HEIGHT * 3 / 2).map(|_| noise()).collect()).collect()
}

/// The view of a frame as the sampler has it.
fn picture(frame: &[u8], shared: bool) -> Picture<'_> {
    let (luma, chroma) = frame.split_at(WIDTH * HEIGHT);
    let (u, v) = chroma.split_at(chroma.len() / 2);
    let half = WIDTH / 2;
    let planes = match shared {
        true => vec![Plane { bytes: luma, stride: WIDTH }, Plane { bytes: chroma, stride: WIDTH }],
        false => [(luma, WIDTH), (u, half), (v, half)].map(|(bytes, stride)| Plane { bytes, stride }).to_vec(),
    };
    let places = if shared { [(0, 1, 0), (1, 2, 0), (1, 2, 1)] } else { [(0, 1, 0), (1, 1, 0), (2, 1, 0)] };
    let components = places.iter().enumerate().map(|(i, &(plane, channels, channel))| {
        let side = |length: usize| if i == 0 { length as u32 } else { length as u32 / 2 };
        Component { plane, channels, channel, width: side(WIDTH), height: side(HEIGHT) }
    });
    Picture {
        width: WIDTH as u32,
        height: HEIGHT as u32,
        pixel_aspect: (1, 1),
        planes,
        components: components.collect(),
        depth: Depth::Eight,
        colour: BT709,
        orientation: Orientation::default(),
    }
}

fn pictures(criterion: &mut Criterion) {
    let frames = frames();
    let mut group = criterion.benchmark_group("picture");
    for (format, shared) in FORMATS {
        let mut next = frames.iter().cycle().map(|frame| picture(frame, shared));
        group.bench_function(BenchmarkId::new("thumbnail", format), |bencher| {
            bencher.iter(|| black_box(next.next().map(|picture| picture.thumbnail())));
        });
        group.bench_function(BenchmarkId::new("chosen", format), |bencher| {
            bencher.iter(|| {
                black_box(next.next().map(|picture| {
                    let (width, height) = picture.fit(MAX_SIZE);
                    picture.rgb(width, height)
                }))
            });
        });
    }
    group.finish();
}

/// Pushes `count` frames through `appsrc ! <middle> ! fakesink`; the time from the first frame to the end.
fn push(format: &str, middle: &str, frames: &[gst::Memory], count: u64) -> Duration {
    let line = format!(
        "appsrc name=in format=time block=true max-buffers=4 max-bytes=0 \
         caps=video/x-raw,format={format},width={WIDTH},height={HEIGHT},framerate={RATE}/1 ! {middle} fakesink sync=false"
    );
    let pipeline =
        gst::parse::launch(&line).expect("the line is right").downcast::<gst::Pipeline>().expect("it is one");
    let source = pipeline.by_name("in").and_downcast::<gst_app::AppSrc>().expect("it is named so");
    pipeline.set_state(gst::State::Playing).expect("it plays");
    let started = Instant::now();
    for (i, memory) in (0..count).zip(frames.iter().cycle()) {
        let mut buffer = gst::Buffer::new();
        let new = buffer.get_mut().expect("a new buffer has one owner");
        new.append_memory(memory.clone());
        new.set_pts(gst::ClockTime::from_nseconds(i * 1_000_000_000 / RATE));
        new.set_duration(gst::ClockTime::from_nseconds(1_000_000_000 / RATE));
        source.push_buffer(buffer).expect("the pipeline takes it");
    }
    source.end_of_stream().expect("the pipeline takes it");
    let bus = pipeline.bus().expect("a pipeline has one");
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = bus.timed_pop_filtered(gst::ClockTime::NONE, &ends).expect("it ends");
    let took = started.elapsed();
    pipeline.set_state(gst::State::Null).expect("it stops");
    assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
    took
}

fn elements(criterion: &mut Criterion) {
    gst::init().expect("GStreamer starts");
    gstdescribe::plugin_register_static().expect("the plugin registers");
    let frames: Vec<gst::Memory> = frames().into_iter().map(gst::Memory::from_slice).collect();
    let mut group = criterion.benchmark_group("element");
    group.sample_size(10).throughput(Throughput::Elements(1));
    for (format, _) in FORMATS {
        for (name, middle) in [("nothing", ""), ("sampler", "clipsampler !")] {
            // A whole number of clips of four seconds; the start of the pipeline is not in it.
            let clips = 4 * RATE;
            group.bench_function(BenchmarkId::new(name, format), |bencher| {
                bencher.iter_custom(|count| {
                    let pushed = count.div_ceil(clips) * clips;
                    push(format, middle, &frames, pushed).mul_f64(count as f64 / pushed as f64)
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, pictures, elements);
criterion_main!(benches);
