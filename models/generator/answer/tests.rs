use proptest::prelude::*;
use serde_json::json;

use super::*;

const CLIP: Span = Span { start_ns: 8 * SECOND, end_ns: 12 * SECOND };

fn reading(clip: Span) -> Reading<'static> {
    Reading { clip, base: TimeBase::Clip, boxes: BoxUnit::Thousandths, confidence: 0.5, source: "pack/generator" }
}

fn read(value: &Value) -> Answer {
    parse(&value.to_string(), &reading(CLIP))
}

fn said(answer: &Answer) -> Vec<(Kind, u64, u64, &str)> {
    let millis = |ns: u64| ns / 1_000_000;
    answer
        .observations
        .iter()
        .map(|o| (o.kind, millis(o.span.start_ns), millis(o.span.end_ns), o.text.as_str()))
        .collect()
}

#[test]
fn the_default_schema_becomes_observations_in_stream_time() {
    let answer = read(&json!({"caption": " Rain  falls.\n", "sounds": [{"start": 0.0, "end": 4.0, "text": "rain"}],
        "events": [{"start": 0.5, "end": 1.25, "text": "a flash"}]}));
    assert_eq!(
        said(&answer),
        [
            (Kind::Caption, 8000, 12000, "Rain falls."),
            (Kind::Sound, 8000, 12000, "rain"),
            (Kind::Scene, 8500, 9250, "a flash")
        ]
    );
    assert_eq!(answer.counts, Counts::default());
    assert_eq!((answer.observations[0].confidence, answer.observations[0].source.as_str()), (0.5, "pack/generator"));
}

#[test]
fn times_are_clamped_turned_round_and_given_a_length() {
    let at = |start: f64, end: f64| {
        let answer = read(&json!({"events": [{"start": start, "end": end, "text": "x"}]}));
        let (_, from, to, _) = said(&answer)[0];
        (from, to, answer.counts.clamped, answer.counts.widened)
    };
    assert_eq!(at(1.0, 9.0), (9000, 12000, 1, 0));
    assert_eq!(at(3.0, 1.0), (9000, 11000, 1, 0));
    assert_eq!(at(1.4, 1.4), (9350, 9450, 0, 1));
    assert_eq!(at(0.0, 0.0), (8000, 8100, 0, 1));
    assert_eq!(at(4.0, 4.0), (11900, 12000, 0, 1));
    assert_eq!(at(70.0, 1e300), (11900, 12000, 1, 1));
    assert_eq!(at(-5.0, 0.5), (8000, 8500, 1, 0));
    let stream = Reading { base: TimeBase::Stream, ..reading(CLIP) };
    let answer = parse(r#"{"events":[{"start":9,"end":10,"text":"x"}]}"#, &stream);
    assert_eq!(said(&answer), [(Kind::Scene, 9000, 10000, "x")]);
}

#[test]
fn what_says_nothing_is_dropped_and_counted() {
    let answer = read(
        &json!({"caption": " \n", "events": [{"start": 9, "end": 1, "text": ""}, 7, {"start": 0, "end": 1}], "sounds": []}),
    );
    assert_eq!(answer, Answer { observations: vec![], counts: Counts { dropped: 4, ..Counts::default() } });
    let many = vec![json!({"start": 0, "end": 1, "text": "x"}); 300];
    let answer = read(&json!({"events": many}));
    assert_eq!((answer.observations.len(), answer.counts.dropped), (256, 44));
    let empty = parse(r#"{"caption":"x"}"#, &reading(Span::new(5, 5)));
    assert_eq!((empty.observations.len(), empty.counts.dropped), (0, 1));
}

#[test]
fn answers_by_a_users_schema_are_kept() {
    let answer = read(&json!({"description": "A street.", "objects": [{"text": "car", "start": 1, "end": 2}, "tree"]}));
    assert_eq!(
        said(&answer),
        [
            (Kind::Caption, 8000, 12000, "A street."),
            (Kind::Object, 9000, 10000, "car"),
            (Kind::Object, 8000, 12000, "tree")
        ]
    );
    let other = read(&json!({"mood": "calm", "people": 2}));
    assert_eq!(said(&other), [(Kind::Caption, 8000, 12000, r#"{"mood":"calm","people":2}"#)]);
    assert_eq!(said(&parse("Just words.", &reading(CLIP))), [(Kind::Caption, 8000, 12000, "Just words.")]);
    assert_eq!(said(&parse("\"Just words.\"", &reading(CLIP))), [(Kind::Caption, 8000, 12000, "Just words.")]);
}

fn places(answer: &Answer) -> Vec<(&str, [f32; 4])> {
    answer.observations.iter().map(|o| (o.text.as_str(), o.bounds.unwrap())).collect()
}

#[test]
fn location_tokens_become_boxes() {
    let pali = "<loc_0256><loc_0128><loc_0512><loc_1023> a cat ; <loc0000><loc0000><loc1023><loc0512> dog";
    assert_eq!(
        places(&parse(pali, &reading(CLIP))),
        [("a cat", [0.125, 0.25, 1023.0 / 1024.0, 0.5]), ("dog", [0.0, 0.0, 0.5, 1023.0 / 1024.0])]
    );
    let florence =
        "</s><s>car<loc_1><loc_2><loc_499><loc_999><loc_0><loc_0><loc_9><loc_9>door handle<loc_5><loc_5><loc_4><loc_9>";
    let answer = parse(florence, &reading(CLIP));
    let expected = [("car", [0.0015, 0.0025, 0.4995, 0.9995]), ("car", [0.0005, 0.0005, 0.0095, 0.0095])];
    assert_eq!(places(&answer), expected);
    assert_eq!(answer.counts.dropped, 1, "a box without area");
    assert!(answer.observations.iter().all(|o| o.kind == Kind::Object && o.span == CLIP));
    let caption = read(&json!({"caption": "<loc_0000><loc_0000><loc_0512><loc_0512> bird"}));
    assert_eq!(places(&caption), [("bird", [0.0, 0.0, 0.5, 0.5])]);
    // Broken tokens are words.
    assert_eq!(
        said(&parse("<loc_12><loc_x> a <loc", &reading(CLIP))),
        [(Kind::Caption, 8000, 12000, "<loc_12><loc_x> a <loc")]
    );
}

#[test]
fn numbers_in_json_become_boxes() {
    let gemma =
        read(&json!([{"box_2d": [100, 200, 300, 1400], "label": "dog"}, {"box_2d": [5, 5, 5, 9], "label": "flat"}]));
    assert_eq!(places(&gemma), [("dog", [0.2, 0.1, 1.0, 0.3])]);
    assert_eq!(gemma.counts.dropped, 1);
    let qwen = r#"{"found":[{"bbox_2d":[64,48,320,240],"label":"cup"}]}"#;
    assert_eq!(places(&parse(qwen, &reading(CLIP))), [("cup", [0.064, 0.048, 0.32, 0.24])]);
    let pixels = Reading { boxes: BoxUnit::Pixels(640, 480), ..reading(CLIP) };
    assert_eq!(places(&parse(qwen, &pixels)), [("cup", [0.1, 0.1, 0.5, 0.5])]);
    let timed = read(&json!({"objects": [{"bbox_2d": [0, 0, 500, 500], "label": "ball", "start": 1, "end": 2}]}));
    assert_eq!(said(&timed), [(Kind::Object, 9000, 10000, "ball")]);
    assert_eq!(timed.observations[0].bounds, Some([0.0, 0.0, 0.5, 0.5]));
}

fn check(answer: &Answer, clip: Span) -> Result<(), TestCaseError> {
    for said in &answer.observations {
        prop_assert!(said.span.start_ns < said.span.end_ns);
        prop_assert_eq!(said.span.intersect(clip), said.span);
        prop_assert!(!said.text.trim().is_empty());
        prop_assert!((0.0..=1.0).contains(&said.confidence));
        if let Some([left, top, right, bottom]) = said.bounds {
            prop_assert!(0.0 <= left && left < right && right <= 1.0 && 0.0 <= top && top < bottom && bottom <= 1.0);
        }
    }
    Ok(())
}

fn any_json() -> impl Strategy<Value = Value> {
    let names = proptest::sample::select(vec![
        "caption", "events", "sounds", "text", "start", "end", "box_2d", "bbox", "label", "x",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-3.0..9.0).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "(a|<loc_[0-9]{1,5}>){0,9}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::vec((names.clone(), inner), 0..6).prop_map(|members| Value::Object(
                members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
            )),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_gives_observations_inside_of_the_clip(value in any_json(), start in any::<u64>(), length in any::<u64>(),
                                                      stream in any::<bool>(), confidence in any::<f32>(), size in any::<(u32, u32)>()) {
        let clip = Span::new(start, start.saturating_add(length));
        let base = if stream { TimeBase::Stream } else { TimeBase::Clip };
        let reading = Reading { base, confidence, boxes: BoxUnit::Pixels(size.0, size.1), ..reading(clip) };
        check(&parse(&value.to_string(), &reading), clip)?;
    }

    #[test]
    fn spans_of_any_numbers_lie_in_the_clip(start in any::<f64>(), end in any::<f64>(), from in 0u64..1 << 50, length in 0u64..1 << 40) {
        let clip = Span::new(from, from + length);
        let entry = json!({"start": start, "end": end, "text": "x"});
        check(&parse(&json!({"events": [entry]}).to_string(), &reading(clip)), clip)?;
    }

    #[test]
    fn any_text_gives_observations_inside_of_the_clip(text in any::<String>(), tokens in "(<loc_?[0-9]{0,5}>|[a-c;<>]){0,40}") {
        check(&parse(&text, &reading(CLIP)), CLIP)?;
        check(&parse(&tokens, &reading(CLIP)), CLIP)?;
    }
}
