package dockerfile

import (
	"maps"
	"slices"
	"time"

	v1 "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Base is what is known of an image to build upon.
type Base struct {
	Name     string        // as the Dockerfile says it, or what a named context says instead
	Unnamed  bool          // Name is a named context's, and no reference: it is of no registry
	ID       digest.Digest // of the configuration
	Digest   digest.Digest // of the manifest or index that the name means; "" if unknown
	Manifest ocispec.Descriptor
	ChainID  digest.Digest // "" for no layers
	Layers   []ocispec.Descriptor
	DiffIDs  []digest.Digest
	Platform ocispec.Platform
	Author   string
	Config   v1.DockerOCIImageConfig
	History  []ocispec.History
}

// Vertex is a filesystem and how it comes to be: one of Image, Run, Copy and Mkdir is set;
// none is the empty filesystem.
type Vertex struct {
	Parent *Vertex // nil for an image and for the empty filesystem
	Image  *Base
	Run    *Run
	Copy   *Copy
	Mkdir  *Mkdir

	Name  string // of the instruction, for people
	Stage string
	Lines [2]int // first and last in the Dockerfile; zero for none
	// Exported says that the target's image consists of this layer among others.
	Exported bool
}

// Inputs are the other filesystems that v needs.
func (v *Vertex) Inputs() []*Vertex {
	switch {
	case v.Copy != nil && v.Copy.From != nil:
		return []*Vertex{v.Copy.From}
	case v.Run != nil:
		var out []*Vertex
		for _, m := range v.Run.Mounts {
			if m.From != nil {
				out = append(out, m.From)
			}
		}
		return out
	}
	return nil
}

// Run is a command to be run.
type Run struct {
	Platform ocispec.Platform // of the programs
	Args     []string
	Shell    []string // of the stage
	Env      []string
	User     string // "" for root
	Dir      string
	Mounts   []Mount
	Files    []File // to be seen read-only below ScriptDir
	Network  string // "default", "none", "host"
	Insecure bool
	// Hides are names of predefined variables (proxies) in Env that say nothing about the result.
	Hides []string
}

// ScriptDir is where the scripts of heredocs are while they run.
const ScriptDir = "/dev/pipes"

// File is a small file that the Dockerfile contains.
type File struct {
	Name string
	Data string
}

// MountType is a kind of RUN --mount.
type MountType string

// The kinds of mounts.
const (
	MountBind   MountType = "bind"
	MountCache  MountType = "cache"
	MountTmpfs  MountType = "tmpfs"
	MountSecret MountType = "secret"
	MountSSH    MountType = "ssh"
)

// Mount is a RUN --mount.
type Mount struct {
	Type        MountType
	From        *Vertex // bind, cache: nil is a context for bind, and nothing for cache
	FromContext bool
	Context     string // name of that context; "" for the main one
	Source      string
	Target      string // absolute
	ReadOnly    bool
	ID          string // cache, secret, ssh
	Sharing     string // cache: shared, private, locked
	Size        int64  // tmpfs, in bytes; zero is no limit
	Required    bool
	Env         string // secret: variable to set; "" for none
	Mode        *uint64
	UID, GID    *uint64
}

// Copy is a COPY or an ADD.
type Copy struct {
	From     *Vertex // nil for a context
	Context  string  // its name; "" for the main one
	Sources  []string
	URLs     []string
	Repos    []string // of git, with #REF:DIRECTORY
	KeepGit  bool     // .git of Repos, too
	Commit   string   // what the one repository must be at; "" for any
	Files    []File
	Dest     string // absolute; ends with "/" if it must be a directory
	Chown    string
	Chmod    string
	Exclude  []string
	Parents  bool
	Unpack   bool // archives of the context
	Fetched  bool // archives of URLs, too
	Checksum digest.Digest
	// Link says that the files are put upon nothing, and what comes of it upon the parent.
	Link bool
}

// Mkdir is a WORKDIR.
type Mkdir struct {
	Path string
	User string
}

// Entry is one line of the target's history. Created is nil for what this build does.
type Entry struct {
	ocispec.History
	Vertex *Vertex // nil for an instruction that changes no file
}

// Step is one instruction, as people see it.
type Step struct {
	Text   string
	Stage  string
	Vertex *Vertex // nil for one that changes the configuration only
}

// Plan is a compiled Dockerfile.
type Plan struct {
	Target   *Vertex
	Platform ocispec.Platform
	Author   string
	Config   v1.DockerOCIImageConfig
	History  []Entry
	Steps    []Step // in the order of the Dockerfile
	Vertices []*Vertex
	Parent   digest.Digest // id of the image that the target is made from; "" for none
	Epoch    time.Time     // SOURCE_DATE_EPOCH, of the build's arguments or of an ARG before FROM; zero for none
	Warnings []Warning
}

// Target is a stage that can be asked for.
type Target struct {
	Name        string
	Description string // the comment above its FROM
	Base        string
	Platform    string
	Default     bool
	Lines       [2]int
}

// Warning is what a rule of the linter has to say.
type Warning struct {
	Rule    string `json:"rule"`
	Text    string `json:"text"`
	Detail  string `json:"detail,omitempty"`
	URL     string `json:"url,omitempty"`
	Line    int    `json:"line,omitempty"`
	EndLine int    `json:"endLine,omitempty"`
}

// Contexts returns the names of the contexts that the plan takes files from.
func (p *Plan) Contexts() []string {
	seen := map[string]bool{}
	for _, v := range p.Vertices {
		switch {
		case v.Copy != nil && v.Copy.From == nil && len(v.Copy.Sources) > 0:
			seen[v.Copy.Context] = true
		case v.Run != nil:
			for _, m := range v.Run.Mounts {
				if m.Type == MountBind && m.FromContext {
					seen[m.Context] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}
