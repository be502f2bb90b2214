//! A deb of the same files, by dpkg-deb alone: what is in the packages can be tried for each change, without the time
//! that building cargo's packaging tools takes. The list of crates, which one of those makes, is left out.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::command::{self, CommandError};
use crate::workspace::{Workspace, WorkspaceError, at};

/// Why there is no such deb.
#[derive(Debug, Error)]
pub(crate) enum QuickError {
    #[error("cannot read what {} says of packages", path.display())]
    Manifest {
        path: PathBuf,
        #[source]
        source: toml::de::Error,
    },
    #[error("{asset:?} of package.metadata.deb in vmm/Cargo.toml is nothing that there is")]
    NoSuchAsset { asset: String },
    #[error("{asset:?} of package.metadata.deb in vmm/Cargo.toml has no mode: {mode:?}")]
    Mode { asset: String, mode: String },
    #[error("cannot run dpkg-deb")]
    Packer(#[from] CommandError),
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
}

/// What a manifest has of its packages.
#[derive(Debug, Deserialize)]
struct Manifest {
    package: Package,
}

#[derive(Debug, Deserialize)]
struct Package {
    description: String,
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    deb: Deb,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Deb {
    name: String,
    maintainer: String,
    extended_description: String,
    section: String,
    priority: String,
    recommends: String,
    suggests: String,
    /// Source, destination and mode.
    assets: Vec<[String; 3]>,
}

/// What the list of crates is called, by its end.
const LIST_OF_CRATES: &str = ".cdx.json";
/// Where manual pages are, which are packed in a package.
const MANUAL: &str = "usr/share/man";

fn manifest<T: DeserializeOwned>(workspace: &Workspace) -> Result<T, QuickError> {
    let path = workspace.root().join("vmm/Cargo.toml");
    let text = fs::read_to_string(&path).map_err(at("read", &path))?;
    toml::from_str(&text).map_err(|source| QuickError::Manifest { path, source })
}

/// Packs it, and returns where it is.
pub(super) fn pack(workspace: &Workspace, programs: &[PathBuf]) -> Result<PathBuf, QuickError> {
    let Manifest { package } = manifest(workspace)?;
    let Package {
        description,
        metadata: Metadata { deb },
    } = package;
    let folder = workspace.root().join("target/package/quick");
    let _none_is_there = fs::remove_dir_all(&folder);
    let files = folder.join("files");
    for [asset, destination, mode] in &deb.assets {
        if asset.ends_with(LIST_OF_CRATES) {
            continue;
        }
        let mode = u32::from_str_radix(mode, 8).map_err(|_| QuickError::Mode {
            asset: asset.clone(),
            mode: mode.clone(),
        })?;
        for source in sources(workspace, programs, asset)? {
            let mut place = files.join(destination);
            if destination.ends_with('/') {
                place.push(source.file_name().unwrap_or_default());
            }
            copy(&source, &place, destination.starts_with(MANUAL), mode)
                .map_err(at("copy", &source))?;
        }
    }
    let control = files.join("DEBIAN/control");
    fs::create_dir_all(files.join("DEBIAN"))
        .and_then(|()| fs::write(&control, deb.control(&description)))
        .map_err(at("write", &control))?;
    let made = folder.join(format!("{}_{VERSION}_{ARCHITECTURE}.deb", deb.name));
    let mut pack = Command::new("dpkg-deb");
    // What old and small programs read, too.
    pack.args(["--root-owner-group", "-Zgzip", "--build"])
        .args([&files, &made]);
    command::output(&mut pack)?;
    Ok(made)
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// As Debian calls it.
const ARCHITECTURE: &str = "ppc64el";

/// The files that an asset names: programs by what was built, all others below vmm/, by their end where it has a star.
fn sources(
    workspace: &Workspace,
    programs: &[PathBuf],
    asset: &str,
) -> Result<Vec<PathBuf>, QuickError> {
    let path = workspace.root().join("vmm").join(asset);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let found = if asset.starts_with("target/release/") {
        let is_it = |program: &&PathBuf| program.file_name() == path.file_name();
        programs.iter().filter(is_it).cloned().collect()
    } else if let Some(end) = name.strip_prefix('*') {
        let entries = path.parent().map(fs::read_dir).into_iter().flatten();
        let paths = entries.flatten().filter_map(|it| Some(it.ok()?.path()));
        paths
            .filter(|it| it.to_string_lossy().ends_with(end))
            .collect()
    } else {
        Vec::from_iter(path.is_file().then_some(path))
    };
    match found.is_empty() {
        true => Err(QuickError::NoSuchAsset {
            asset: asset.to_owned(),
        }),
        false => Ok(found),
    }
}

fn copy(source: &Path, place: &Path, packs: bool, mode: u32) -> io::Result<()> {
    let folder = place.parent().unwrap_or(place);
    fs::create_dir_all(folder)?;
    let mut place = place.to_owned();
    if packs {
        place.as_mut_os_string().push(".gz");
        let mut packer = GzEncoder::new(fs::File::create(&place)?, Compression::best());
        packer.write_all(&fs::read(source)?)?;
        packer.finish()?;
    } else {
        fs::copy(source, &place)?;
    }
    fs::set_permissions(&place, fs::Permissions::from_mode(mode))
}

impl Deb {
    /// The file of that name in a deb.
    fn control(&self, description: &str) -> String {
        let Self {
            name,
            maintainer,
            extended_description,
            section,
            priority,
            recommends,
            suggests,
            ..
        } = self;
        format!(
            "Package: {name}\nVersion: {VERSION}\nArchitecture: {ARCHITECTURE}\nMaintainer: {maintainer}\n\
             Section: {section}\nPriority: {priority}\nRecommends: {recommends}\nSuggests: {suggests}\n\
             Description: {description}\n {extended_description}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct RpmAsset {
        source: String,
        dest: String,
        mode: String,
    }

    fn assets<T: DeserializeOwned>(package: &toml::Value) -> Vec<T> {
        package["assets"].clone().try_into().expect("assets")
    }

    /// From the root of the tree, and where it goes: of the shells, zsh has another folder in each distribution.
    fn plain(source: &str, destination: &str, mode: &str) -> (String, String, String) {
        let source = source.strip_prefix("../").unwrap_or(source);
        let source = source.strip_prefix("vmm/").unwrap_or(source);
        let destination = destination.trim_start_matches('/');
        let destination = destination.replace("vendor-completions", "site-functions");
        let name = source.rsplit('/').next().unwrap_or_default();
        let whole = match destination.ends_with('/') && !name.starts_with('*') {
            true => format!("{destination}{name}"),
            false => destination,
        };
        (source.to_owned(), whole, mode.to_owned())
    }

    #[test]
    fn the_rpm_has_what_the_deb_has() {
        let workspace = Workspace::open("test").expect("a workspace");
        let manifest: toml::Table = manifest(&workspace).expect("packages");
        let metadata = &manifest["package"]["metadata"];
        let deb: Vec<[String; 3]> = assets(&metadata["deb"]);
        let rpm: Vec<RpmAsset> = assets(&metadata["generate-rpm"]);
        let deb = deb.iter().map(|[from, to, mode]| plain(from, to, mode));
        let rpm = rpm.iter().map(|it| plain(&it.source, &it.dest, &it.mode));
        let (mut deb, mut rpm) = (Vec::from_iter(deb), Vec::from_iter(rpm));
        deb.sort();
        rpm.sort();
        assert_eq!(deb, rpm);
    }
}
