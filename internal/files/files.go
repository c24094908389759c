// Package files reads the mesh's objects from a folder of YAML files: the Source of standalone mode. Files are read
// again when they change. One goroutine (Run) watches; snapshots are immutable.
package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/tulle-mesh/tulle/internal/controller"
	"github.com/tulle-mesh/tulle/internal/problem"
	"github.com/tulle-mesh/tulle/internal/topology"
)

// settle is how long a folder must be quiet before it is read: editors write in several steps. A folder that never is
// quiet, with a log in it perhaps, is read nonetheless after unrest.
const (
	settle = 50 * time.Millisecond
	unrest = 10 * settle
)

// again is how long after a folder could not be read it is tried again: it may be about to come back.
const again = time.Second

// Source is a controller.Source over a folder.
type Source struct {
	dir      string
	changed  chan struct{}
	snapshot atomic.Pointer[controller.Snapshot]
}

// Open reads dir and all folders below it. It fails if dir cannot be listed; whatever is wrong in a file, or comes
// later, is a Problem.
func Open(dir string) (*Source, error) {
	s := &Source{dir: dir, changed: make(chan struct{}, 1)}
	r, err := readDir(dir)
	if err != nil {
		return nil, err
	}
	s.take(r)
	return s, nil
}

// Changed is signalled after the objects changed; latest wins.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Snapshot returns what the files said when they were last read.
func (s *Source) Snapshot() controller.Snapshot { return *s.snapshot.Load() }

// read takes what the files say now. If the folder cannot be listed, everything stays as it was.
func (s *Source) read() error {
	r, err := readDir(s.dir)
	if err != nil {
		r = s.Snapshot().Resources
		gone := problem.Newf(fileRef(s.dir, 0), problem.UnreadableFile, "%v; what its files said stays in use", err)
		if !slices.Contains(r.Undecodable, gone) {
			r.Undecodable = append(slices.Clip(r.Undecodable), gone)
		}
	}
	s.take(r)
	return err
}

func (s *Source) take(r topology.Resources) {
	if old := s.snapshot.Load(); old != nil && reflect.DeepEqual(old.Resources, r) {
		return
	}
	s.snapshot.Store(&controller.Snapshot{Resources: r})
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Run reads the files again whenever they change, until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", s.dir, err)
	}
	defer w.Close()
	if err := watchTree(w, s.dir); err != nil {
		return err
	}
	// What changed between Open and the watch.
	quiet := time.NewTimer(0)
	defer quiet.Stop()
	var since time.Time // of the first change that was not read yet
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.Events:
		case <-w.Errors: //nolint:errcheck // too many changes at once, so that some were not told: all is read again
		case <-quiet.C:
			since = time.Time{}
			// New folders are watched before they are read, so that nothing is missed.
			if err := errors.Join(watchTree(w, s.dir), s.read()); err != nil {
				quiet.Reset(again)
			}
			continue
		}
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) < unrest {
			quiet.Reset(settle)
		}
	}
}

// watchTree watches a folder and all below it. What is there no more, or may not be read, is no error: reading it is.
func watchTree(w *fsnotify.Watcher, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil //nolint:nilerr // see above
		}
		if err := w.Add(path); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("watch %s: %w", path, err)
		}
		return nil
	})
}
