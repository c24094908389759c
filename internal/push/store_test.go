package push

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	configv1 "github.com/tulle-mesh/tulle/api/config/v1"
)

func TestStore(t *testing.T) {
	s := &Store{Path: filepath.Join(t.TempDir(), "config")}
	if _, _, err := s.Load(); !errors.Is(err, ErrNotStored) {
		t.Errorf("an empty store gives %v", err)
	}
	for rev := range uint32(2) {
		resources := append(config(t, 5, rev), proxyFor(t, "p1", true)...)
		if err := s.Save("v1", resources); err != nil {
			t.Fatal(err)
		}
		version, got, err := s.Load()
		if err != nil || version != "v1" || !maps.Equal(want(got), want(resources)) {
			t.Errorf("loaded %q, %d resources, %v", version, len(got), err)
		}
		for _, r := range got { // the content is what the version says
			if again := resource(t, r.Name, r.Message); again.Version != r.Version {
				t.Errorf("%s came back as another", r.Key)
			}
		}
	}
	info, err := os.Stat(s.Path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v, %v", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(s.Path)); len(entries) != 1 {
		t.Errorf("the folder holds %v", entries)
	}
}

func TestStoreHoldsConfigOnly(t *testing.T) {
	s := &Store{Path: filepath.Join(t.TempDir(), "config")}
	secret := resource(t, "key", &configv1.Rejections{}) // stands for a type that is not made for disks
	if err := s.Save("v1", append(config(t, 1, 0), secret)); err != nil {
		t.Fatal(err)
	}
	if _, got, err := s.Load(); err != nil || !maps.Equal(want(got), want(config(t, 1, 0))) {
		t.Errorf("loaded %v, %v", got, err)
	}
}

func TestStoreSurvivesAPartlyWrittenFile(t *testing.T) {
	s := &Store{Path: filepath.Join(t.TempDir(), "config")}
	if err := s.Save("v1", config(t, 1, 0)); err != nil {
		t.Fatal(err)
	}
	writeFile(t, s.Path+".part", "left by a process that was killed")
	if err := s.Save("v2", config(t, 2, 0)); err != nil {
		t.Fatal(err)
	}
	if version, _, err := s.Load(); err != nil || version != "v2" {
		t.Errorf("loaded %q, %v", version, err)
	}
}

func TestStoreDamaged(t *testing.T) {
	s := &Store{Path: filepath.Join(t.TempDir(), "config")}
	if err := s.Save("v1", config(t, 1, 0)); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, at int, b []byte) {
		t.Helper()
		writeFile(t, s.Path, string(b))
		if _, got, err := s.Load(); err == nil || errors.Is(err, ErrNotStored) || got != nil {
			t.Errorf("%s %d: loaded %v, %v", what, at, got, err)
		}
	}
	for i := 0; i < len(good); i += 1 + i/90*7 { // all of the head, then some
		flipped := append([]byte{}, good...)
		flipped[i] ^= 0x20
		check("flipped byte", i, flipped)
		check("cut at", i, good[:i])
	}
	check("with a tail of", 1, append(good, 0))
}
