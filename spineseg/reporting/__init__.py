"""What people look at: pictures, and later tables and pages."""
