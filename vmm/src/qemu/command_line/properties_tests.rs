use proptest::prelude::*;

use super::*;

fn properties(text: &str) -> Properties {
    Properties::parse("-thing", Some("kind"), text).expect("parses")
}

#[test]
fn pairs_have_an_implied_first_name_and_doubled_commas() {
    let mut pairs = properties("file,id=a,,b,path=/x=y,append=on,server");
    assert_eq!(pairs.required("kind").expect("kind"), "file");
    assert_eq!(pairs.required("id").expect("id"), "a,b");
    assert_eq!(pairs.required("path").expect("path"), "/x=y");
    assert_eq!(pairs.switch("append").expect("switch"), Some(true));
    assert_eq!(pairs.switch("server").expect("switch"), Some(true));
    pairs.finish().expect("all asked for");
}

#[test]
fn json_says_the_same() {
    let mut json = properties(r#"{"kind":"vty","reg":805306368,"on":true,"hex":"0x10"}"#);
    assert_eq!(json.required("kind").expect("kind"), "vty");
    assert_eq!(json.number32("reg").expect("reg"), Some(0x3000_0000));
    assert_eq!(json.switch("on").expect("on"), Some(true));
    assert_eq!(json.number32("hex").expect("hex"), Some(16));
    json.finish().expect("all asked for");
}

#[test]
fn what_nobody_asked_for_is_refused_by_name() {
    let mut pairs = properties("vfio-pci,x-speed=9");
    pairs.set_kind("vfio-pci");
    pairs.ignore(&["kind"]);
    let error = pairs.finish().expect_err("refused").to_string();
    assert_eq!(
        error,
        "-thing vfio-pci: the property x-speed=9 is not supported"
    );
}

#[test]
fn values_of_the_wrong_kind_are_told() {
    let error = properties("kind,reg=many")
        .number32("reg")
        .expect_err("bad");
    assert_eq!(
        error.to_string(),
        "-thing: reg=many should be a number up to 4294967295"
    );
    let error = properties("kind,usb=on").only("usb", &["off"]);
    assert_eq!(
        error.expect_err("bad").to_string(),
        "-thing: usb=on should be off"
    );
    for text in ["{", "[]", "{\"a\":1", "{}{}"] {
        let parsed = Properties::parse("-thing", None, text);
        assert!(parsed.is_err() || !text.starts_with('{'), "{text}");
    }
}

#[test]
fn sizes_have_units_of_their_own_or_the_options() {
    let size = |text: &str, unit| {
        let mut pairs = properties(&format!("kind,size={text}"));
        pairs.size("size", unit).ok().flatten()
    };
    assert_eq!(size("524288k", 1 << 20), Some(512 << 20));
    assert_eq!(size("2", 1 << 20), Some(2 << 20));
    assert_eq!(size("1.5G", 1), Some(1536 << 20));
    for bad in ["", "k", "1x", "-1", "16777216T", "0x", "1.5", "é"] {
        assert_eq!(size(bad, 1), None, "{bad}");
    }
    let mut json = properties(r#"{"size":1048576}"#);
    assert_eq!(json.size("size", 1 << 20).ok().flatten(), Some(1 << 20));
}

#[test]
fn a_word_alone_turns_on_or_off_and_is_named_as_it_was_written() {
    let mut pairs = properties("socket,server,nowait");
    assert_eq!(pairs.required("kind").expect("kind"), "socket");
    assert_eq!(pairs.switch("server").expect("switch"), Some(true));
    assert_eq!(pairs.switch("wait").expect("switch"), Some(false));
    pairs.finish().expect("all asked for");
    let mut pairs = properties("socket,notelnet");
    pairs.ignore(&["kind"]);
    assert_eq!(
        pairs.finish().expect_err("refused").to_string(),
        "-thing: the property notelnet is not supported"
    );
}

#[test]
fn booleans_are_taken_in_all_of_their_spellings() {
    for (text, on) in [("no", false), ("n", false), ("yes", true), ("true", true)] {
        let mut pairs = properties(&format!("kind,usb={text}"));
        assert_eq!(pairs.always("usb", false).is_ok(), !on, "{text}");
    }
    let mut json = properties(r#"{"usb":false,"multifunction":"yes"}"#);
    assert!(json.always("usb", false).is_ok() && json.either("multifunction").is_ok());
    let error = properties("kind,usb=yes").always("usb", false);
    assert_eq!(
        error.expect_err("bad").to_string(),
        "-thing: usb=yes should be off"
    );
    assert!(properties("kind,usb=perhaps").either("usb").is_err());
}

#[test]
fn underscores_in_names_can_be_dashes() {
    let mut pairs = properties("kind,kernel_irqchip=a_b").dashed();
    let value = pairs.text("kernel-irqchip").expect("text");
    assert_eq!(value.as_deref(), Some("a_b"));
}

#[test]
fn places_are_text_or_a_byte() {
    let place = |text: &str| properties(text).place("addr").expect("a place");
    let expected = DeviceFunction::new(1, 2);
    assert_eq!(place("kind,addr=1.2"), expected);
    assert_eq!(place(r#"{"addr":"0x1.0x2"}"#), expected);
    assert_eq!(place(r#"{"addr":10}"#), expected);
    assert!(properties(r#"{"addr":256}"#).place("addr").is_err());
}

proptest! {
    #[test]
    fn any_value_comes_back_as_it_was_written(value in "[ -~]{0,40}") {
        let text = format!("kind,name={},more=1", value.replace(',', ",,"));
        let mut pairs = properties(&text);
        prop_assert_eq!(pairs.required("name").expect("name"), value);
        prop_assert_eq!(pairs.number32("more").expect("more"), Some(1));
    }

    #[test]
    fn no_text_makes_it_panic(text: String) {
        if let Ok(mut properties) = Properties::parse("-thing", Some("kind"), &text) {
            let _ = properties.clone().size("kind", 1);
            let _ = properties.clone().switch("kind");
            let _ = properties.clone().descriptor("kind");
            let _ = properties.clone().port("kind");
            let _ = properties.clone().host_address("kind");
            let _ = properties.clone().place("kind");
            let _ = properties.number32("kind");
            let _ = properties.finish();
        }
    }
}
