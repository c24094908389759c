// Package files reads the mesh's objects from a folder of YAML files: the Source of standalone mode. Files are read
// again when they change. One goroutine (Run) watches; snapshots are immutable.
package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/tulle-mesh/tulle/internal/controller"
)

// settle is how long a folder must be quiet before it is read: editors write in several steps.
const settle = 50 * time.Millisecond

// Source is a controller.Source over a folder.
type Source struct {
	dir      string
	changed  chan struct{}
	snapshot atomic.Pointer[controller.Snapshot]
}

// Open reads dir and all folders below it. It fails if dir cannot be listed; whatever is wrong in a file is a Problem.
func Open(dir string) (*Source, error) {
	s := &Source{dir: dir, changed: make(chan struct{}, 1)}
	if err := s.read(); err != nil {
		return nil, err
	}
	return s, nil
}

// Changed is signalled after the objects changed; latest wins.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Snapshot returns what the files said when they were last read.
func (s *Source) Snapshot() controller.Snapshot { return *s.snapshot.Load() }

func (s *Source) read() error {
	r, err := readDir(s.dir)
	if err != nil {
		return err
	}
	if old := s.snapshot.Load(); old != nil && reflect.DeepEqual(old.Resources, r) {
		return nil
	}
	s.snapshot.Store(&controller.Snapshot{Resources: r})
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return nil
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
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.Events:
			if e.Has(fsnotify.Create) {
				_ = watchTree(w, e.Name) // a new folder; a file needs no watch of its own
			}
			quiet.Reset(settle)
		case err := <-w.Errors:
			return fmt.Errorf("watch %s: %w", s.dir, err)
		case <-quiet.C:
			if err := s.read(); err != nil {
				return err
			}
		}
	}
}

func watchTree(w *fsnotify.Watcher, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		}
		if err := w.Add(path); err != nil {
			return fmt.Errorf("watch %s: %w", path, err)
		}
		return nil
	})
}

// yamlFiles lists the files below dir that hold objects, sorted.
func yamlFiles(dir string) ([]string, error) {
	if st, err := os.Stat(dir); err != nil {
		return nil, err
	} else if !st.IsDir() {
		return nil, fmt.Errorf("%s is a file: name the folder that holds it", dir)
	}
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed while we looked
			return nil
		case err != nil:
			return err
		}
		hidden := path != dir && strings.HasPrefix(d.Name(), ".")
		if d.IsDir() && hidden {
			return filepath.SkipDir
		}
		if ext := filepath.Ext(path); !d.IsDir() && !hidden && slices.Contains([]string{".yaml", ".yml", ".json"}, ext) {
			names = append(names, path)
		}
		return nil
	})
	slices.Sort(names)
	return names, err
}
