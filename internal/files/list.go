package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// listing is what is below a folder.
type listing struct {
	files  []string         // those that hold objects, sorted
	unread map[string]error // folders that could not be looked into
}

// yamlFiles lists the files below dir that hold objects. It fails if dir itself cannot be listed.
func yamlFiles(dir string) (listing, error) {
	out := listing{unread: map[string]error{}}
	if st, err := os.Stat(dir); err != nil {
		return out, err
	} else if !st.IsDir() {
		return out, errors.New("it is a file, not a folder")
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		hidden := path != dir && strings.HasPrefix(filepath.Base(path), ".")
		switch {
		case path == dir:
			return err
		case errors.Is(err, fs.ErrNotExist): // removed while we looked
		case err != nil:
			out.unread[path] = err
		case hidden && d.IsDir():
			return filepath.SkipDir
		case !hidden && !d.IsDir() && holdsObjects(path):
			out.files = append(out.files, path)
		}
		return nil
	})
	slices.Sort(out.files)
	return out, err
}

// holdsObjects also looks at what a link leads to: reading a named pipe would wait forever.
func holdsObjects(path string) bool {
	if !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)) {
		return false
	}
	st, err := os.Stat(path)
	return err != nil || st.Mode().IsRegular()
}
